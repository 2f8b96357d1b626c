"""Operating system services: processes, threads, signals, memory, and the errors that the system raises."""
