"""NVML, in a process of its own: the program that reads, what it says, and who keeps it."""
