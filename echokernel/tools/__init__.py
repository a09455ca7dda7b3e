"""The commands of ``echokernel``. They drive kernels from outside and never import ``runtime``."""
