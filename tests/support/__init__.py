"""Helpers of the tests: peers of a kernel, kernels to be tested, programs, waits.

No test is in here. What a test says about a kernel is in the test; what it takes to say that is
here. Kernels that run in a process of their own are found by ``KERNEL_PATH``, for example
``--kernel-class support.scripted_kernels:ScriptedKernel``.
"""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

KERNEL_PATH = {"PYTHONPATH": str(Path(__file__).parents[1])}
"""Environment of a Python process that imports ``support``."""
