"""A kernel for the tests of comms: each cell is the name of a method and one argument."""

from __future__ import annotations

import asyncio
import os
import time

import comm

from echokernel.kernel import EchoKernel
from echokernel.protocol.errors import CommError

from .scripted_kernels import print_line


class CommKernel(EchoKernel):
    """The echo kernel's comm targets, and cells that open comms and send requests."""

    implementation = "comms"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.comm_manager.register_target("failing", self.opened_failing)
        self.comm_manager.register_target("raising", self.opened_raising)
        self.closed = []

    def do_execute(self, code, silent, store_history=True, user_expressions=None, **_):
        name, _, argument = code.partition(" ")
        reply = {"status": "ok", "execution_count": self.execution_count,
                 "payload": [], "user_expressions": {}}  # fmt: skip
        return getattr(self, name)(argument) or reply

    def say(self, text):
        print_line(text)

    # --- cells --------------------------------------------------------------------------------

    def note_pid(self, path):
        with open(path, "w") as file:
            file.write(f"{os.getpid()}")

    def open(self, comm_id):
        """Open a comm in the frontend."""
        self.comm = comm.create_comm(target_name="view", comm_id=comm_id)

    def open_persistent(self, comm_id):
        self.comm = comm.create_comm(target_name="view", comm_id=comm_id, persistent=True)

    def open_many(self, words):
        """``COUNT GATE``: open comms; the first close handler that runs waits for a file."""
        count, gate = words.split(" ", 1)

        def record(message):
            self.closed.append(message["content"]["comm_id"])
            while len(self.closed) == 1 and not os.path.exists(gate):
                time.sleep(0.01)

        for number in range(int(count)):
            comm.create_comm(target_name="view", comm_id=f"many-{number}").on_close(record)

    def count_closed(self, _):
        print_line(len(self.closed))

    async def sleep(self, seconds):
        await asyncio.sleep(float(seconds))
        return {"status": "ok", "execution_count": self.execution_count,
                "payload": [], "user_expressions": {}}  # fmt: skip

    def wait_for(self, path):
        """Block the main thread until a file exists."""
        print_line("asleep")
        while not os.path.exists(path):
            time.sleep(0.01)

    def ask(self, timeout):
        """Send a request to the frontend and wait, in a plain cell."""
        try:
            print_line("asking")
            result = self.comm.request_blocking("answer", [1], float(timeout or 60))
            print_line("answered", result)
        except CommError as error:
            print_line(type(error).__name__, str(error))

    async def ask_in_an_async_cell(self, timeout):
        try:
            print_line("asking")
            result = await self.comm.request("answer", [1], float(timeout or 60))
            print_line("answered", result)
        except CommError as error:
            print_line(type(error).__name__, str(error))
        return {"status": "ok", "execution_count": self.execution_count,
                "payload": [], "user_expressions": {}}  # fmt: skip

    def ask_in_a_thread(self, _):
        """Send a request from a thread, and print its result."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, self.comm.request_blocking, "answer", [1])
        future.add_done_callback(lambda done: self.say(f"thread {done.result()}"))

    def ask_until_the_end(self, path):
        """Send a request in a task; write the error that ends it to a file."""

        async def ask():
            try:
                await self.comm.request("answer")
            except CommError as error:
                with open(path, "w") as file:
                    file.write(f"{type(error).__name__}: {error.reason}")

        self.task = asyncio.create_task(ask())

    # --- targets ------------------------------------------------------------------------------

    def opened_failing(self, opened, message):
        """A comm whose close handler raises."""

        def fail(message):
            raise ValueError("in the close handler")

        opened.on_close(fail)
        opened.on_request("raise", lambda params: 1 / 0)

    def opened_raising(self, opened, message):
        raise ValueError("in the target")
