"""What the heads at the cuts take from the model: blocks like its own, and copies of its later layers."""
