"""A kernel whose cells are instructions, written against ipykernel's interface alone.

An instruction is a JSON object, for example ``{"do": "display", "times": 1000}``. Any other cell is
echoed.
"""

import json
import sys
import threading
import time

from ipykernel.kernelbase import Kernel


class WorkloadKernel(Kernel):
    implementation = "workload"
    implementation_version = "1"
    banner = "workload"
    language_info = {"name": "workload", "mimetype": "text/plain", "file_extension": ".txt"}

    def do_execute(self, code, silent, store_history=True, *_, **__):
        if code.startswith("{"):
            arguments = json.loads(code)
            getattr(self, arguments.pop("do"))(**arguments)
        else:
            self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": code})
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": {},
        }

    def display(self, times, size=1):
        """Publish numbered displays of ``size`` bytes."""
        padding = "x" * size
        for number in range(times):
            content = {"data": {"text/plain": f"{number} {padding}"}, "metadata": {}}
            self.send_response(self.iopub_socket, "display_data", content)

    def print(self, times):
        """Print numbered lines."""
        for number in range(times):
            print(number)

    def print_switch_interval(self):
        print(sys.getswitchinterval())

    def compute(self, seconds):
        """Keep the main thread busy, in Python."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pass

    def compute_in_threads(self, threads):
        """Keep other threads busy, in Python, until the process exits."""
        for _ in range(threads):
            threading.Thread(target=self.compute, args=(float("inf"),), daemon=True).start()
