"""A kernel that does as the benchmark tells it, by ipykernel's rules alone.

The same class runs on ipykernel (``python workload.py -f FILE``) and on echokernel (``python -m
echokernel --kernel-class workload:Workload -f FILE``), so that both do the same work. A cell is
JSON, e.g. ``{"do": "display", "times": 1000}``; a cell that is none is echoed.
"""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel


class Workload(Kernel):
    """Displays, prints and burns time on demand; its result is a stream line of JSON."""

    implementation = "workload"
    implementation_version = "1"
    banner = "workload"
    language_info = {"name": "workload", "mimetype": "text/plain", "file_extension": ".txt"}

    def do_execute(
        self, code: str, silent: bool, store_history: bool = True, *args: Any, **more: Any
    ) -> dict[str, Any]:
        if code.startswith("{"):
            order = json.loads(code)
            cpu, begun = time.process_time(), time.perf_counter()
            result = getattr(self, f"_{order.pop('do')}")(**order) or {}
            result["seconds"] = time.perf_counter() - begun
            result["cpu"] = time.process_time() - cpu
        else:
            self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": code})
            result = {}
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": result,
        }

    def _display(self, times: int, size: int = 1) -> None:
        """Publish ``times`` displays, numbered, of ``size`` bytes and a little more."""
        padding = "x" * size
        for number in range(times):
            content = {"data": {"text/plain": f"{number} {padding}"}, "metadata": {}}
            self.send_response(self.iopub_socket, "display_data", content)

    def _print(self, times: int, flush: bool = True, size: int = 1) -> None:
        """Print ``times`` numbered lines."""
        padding = "x" * size
        for number in range(times):
            print(number, padding, flush=flush)

    def _buffer(self, size: int, times: int = 1) -> dict[str, Any]:
        """Publish a buffer of ``size`` bytes; tell how far it let the memory's peak grow, bytes."""
        buffer = bytearray(size)
        buffer[::4096] = bytes([1]) * len(buffer[::4096])  # so that it is really there
        before = _peak_memory()
        for _ in range(times):
            self.session.send(
                self.iopub_socket,
                "display_data",
                {"data": {"text/plain": "buffer"}, "metadata": {}},
                parent=self.get_parent("shell"),
                ident=self._topic("display_data"),
                buffers=[buffer],
            )
        return {"peak_grew": _peak_memory() - before}

    def _spin(self, seconds: float) -> None:
        """Keep the main thread busy, in Python."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass

    def _spin_in_thread(self, seconds: float) -> None:
        """Let another thread compute in Python for that long; return at once."""
        threading.Thread(target=self._spin, args=(seconds,), daemon=True).start()

    def _facts(self) -> dict[str, Any]:
        """Tell the process's id and its CPU seconds so far, all threads."""
        return {"pid": os.getpid(), "process_cpu": time.process_time()}


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=Workload)
