"""What the operating system gives: processes, threads, signals, memory, and its refusals."""
