"""Kernels written against ipykernel's documentation: their author does not know echokernel.

Each cell is the name of a method and one argument: ``printing hello``.
"""

import asyncio
import sys
import threading
from datetime import datetime, timezone

import comm
from ipykernel.iostream import OutStream
from ipykernel.kernelbase import Kernel


class PlainKernel(Kernel):
    implementation = "plain"
    implementation_version = "1"
    banner = "A plain kernel"
    language_info = {"name": "plain", "mimetype": "text/plain", "file_extension": ".txt"}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # As metakernel and other kernels support comms.
        self.comm_manager = comm.get_comm_manager()
        for name in ("comm_open", "comm_msg", "comm_close"):
            self.shell_handlers[name] = getattr(self.comm_manager, name)
        self.comm_manager.register_target("echo", self.opened)

    def do_execute(
        self, code, silent, store_history=True, user_expressions=None, allow_stdin=False
    ):
        name, _, argument = code.partition(" ")
        getattr(self, name)(argument)
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": {},
        }

    # --- output ---------------------------------------------------------------------------

    def responding(self, text):
        self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": text})

    def responding_from_a_thread(self, text):
        thread = threading.Thread(target=self.responding, args=(text,))
        thread.start()
        thread.join()

    def sending(self, text):
        content = {"name": "stdout", "text": text}
        parent, topic = self.get_parent(), self._topic("stream")
        self.session.send(self.iopub_socket, "stream", content, parent=parent, ident=topic)

    def sending_a_message(self, text):
        """Build a message, then send it with a buffer."""
        content = {"data": {"text/plain": text}, "metadata": {}}
        message = self.session.msg("display_data", content, parent=self.get_parent())
        self.session.send(self.iopub_socket, message, buffers=[b"\x00\xff"])

    def sending_python_types(self, _):
        """Display values of types that JSON does not have."""
        data = {
            "bytes": b"\x00\xff",
            "tuple": (1, 2),
            "range": range(2),
            "date": datetime(2026, 11, 21, tzinfo=timezone.utc),
        }
        self.send_response(self.iopub_socket, "display_data", {"data": data, "metadata": {}})

    def printing(self, text):
        print(text)

    def printing_to_stderr(self, text):
        print(text, file=sys.stderr)

    def streaming(self, text):
        """Write to a new OutStream, as loggers in notebooks do."""
        stream = OutStream(self.session, self.iopub_thread, "stdout", watchfd=False)
        stream.set_parent(self.get_parent())
        stream.write(text)
        stream.flush()

    def displaying(self, text):
        sys.displayhook(text)

    def logging(self, text):
        self.log.warning(text)

    def failing(self, text):
        raise LookupError(text)

    def scheduling(self, text):
        """Publish as soon as the loop is free, after the end of the cell."""
        self.io_loop.add_callback(self.responding, text)

    # --- input and information ------------------------------------------------------------

    def asking(self, prompt):
        self.responding(repr(self.raw_input(prompt)))

    def asking_secretly(self, prompt):
        self.responding(repr(self.getpass(prompt)))

    def showing_the_parent(self, _):
        self.responding(self.get_parent()["content"]["code"])

    def showing_the_ports(self, _):
        self.responding(" ".join(sorted(self._recorded_ports)))

    # --- comms ----------------------------------------------------------------------------

    def opened(self, opened, message):
        def echo(message):
            opened.send({"echo": message["content"]["data"]}, buffers=message["buffers"])

        opened.on_msg(echo)
        opened.send({"hello": message["content"]["data"]})

    def opening(self, target):
        self.comm = comm.create_comm(target_name=target, data={"from": "kernel"})


class AsyncPlainKernel(PlainKernel):
    """PlainKernel with ``do_execute`` as a coroutine, as ipykernel recommends."""

    async def do_execute(self, code, silent, store_history=True, *_, **__):
        await asyncio.sleep(0)
        return super().do_execute(code, silent)


class OverridingKernel(PlainKernel):
    """Overrides handlers and attributes of the base class, and adds a message type."""

    msg_types = [*PlainKernel.msg_types, "greet_request"]
    control_msg_types = [*PlainKernel.control_msg_types, "greet_request"]

    async def greet_request(self, stream, ident, parent):
        content = {"greeting": f"hello {parent['content']['name']}"}
        self.session.send(stream, "greet_reply", content, parent, ident)

    @property
    def kernel_info(self):
        return {**super().kernel_info, "banner": "overridden"}

    def start(self):
        super().start()
        self.log.warning("started")

    def should_handle(self, stream, msg, idents):
        return msg["msg_type"] != "complete_request"

    async def do_is_complete(self, code):
        return {"status": "incomplete", "indent": "  "}

    async def do_debug_request(self, msg):
        return {"debugged": msg["command"]}

    async def do_shutdown(self, restart):
        self.log.warning("shut down, restart=%s", restart)
        return {"status": "ok", "restart": restart}

    def init_metadata(self, parent):
        return {**super().init_metadata(parent), "author": "me"}

    def finish_metadata(self, parent, metadata, reply_content):
        return {**metadata, "ended": reply_content["status"]}
