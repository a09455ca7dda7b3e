"""Output of the kernel's process: Python's streams, the descriptors below them, shown values."""
