"""Commands of the command line that drive kernels from outside: doctor, install, stress."""
