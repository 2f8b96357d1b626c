"""What the workers and their links cost."""
