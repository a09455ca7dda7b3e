"""A kernel that publishes on demand, written against ipykernel's interface alone.

The same class runs on ipykernel (``python workload.py -f FILE``) and on echokernel (``python -m
echokernel --kernel-class workload:Workload -f FILE``). A cell is a JSON object, for example
``{"do": "display", "times": 1000}``.
"""

from __future__ import annotations

import json
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel


class Workload(Kernel):
    """Publishes displays, printed lines or a large buffer; echoes any other cell."""

    implementation = "workload"
    implementation_version = "1"
    banner = "workload"
    language_info = {"name": "workload", "mimetype": "text/plain", "file_extension": ".txt"}

    def do_execute(
        self, code: str, silent: bool, store_history: bool = True, *args: Any, **more: Any
    ) -> dict[str, Any]:
        if code.startswith("{"):
            order = json.loads(code)
            getattr(self, f"_{order.pop('do')}")(**order)
        else:
            self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": code})
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": {},
        }

    def _display(self, times: int) -> None:
        for number in range(times):
            content = {"data": {"text/plain": f"{number} x"}, "metadata": {}}
            self.send_response(self.iopub_socket, "display_data", content)

    def _print(self, times: int) -> None:
        for number in range(times):
            print(number, "x", flush=True)

    def _buffer(self, size: int) -> None:
        """Publish a display with a buffer of ``size`` bytes."""
        buffer = bytearray(size)
        buffer[::4096] = bytes([1]) * len(buffer[::4096])  # write to every page: it is resident
        self.session.send(
            self.iopub_socket,
            "display_data",
            {"data": {"text/plain": "buffer"}, "metadata": {}},
            parent=self.get_parent("shell"),
            ident=self._topic("display_data"),
            buffers=[buffer],
        )


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=Workload)
