"""Kernels written by ipykernel's rules alone: their author has never heard of echokernel.

Each cell is the name of a method, with one argument: ``printing hello``.
"""

import asyncio
import sys
import threading
from datetime import datetime, timezone

import comm
from ipykernel.iostream import OutStream
from ipykernel.kernelbase import Kernel


class PlainKernel(Kernel):
    implementation = "rules"
    implementation_version = "1"
    banner = "By the rules"
    language_info = {"name": "rules", "mimetype": "text/plain", "file_extension": ".txt"}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # How metakernel and others offer comms.
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

    # --- what goes to the frontend --------------------------------------------------------

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
        """A message made first and sent afterwards, with a buffer."""
        content = {"data": {"text/plain": text}, "metadata": {}}
        made = self.session.msg("display_data", content, parent=self.get_parent())
        self.session.send(self.iopub_socket, made, buffers=[b"\x00\xff"])

    def sending_what_json_lacks(self, _):
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
        """On a stream made by hand, as loggers in notebooks do it."""
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
        """Say something as soon as the loop is free; the cell is over by then."""
        self.io_loop.add_callback(self.responding, text)

    # --- what it asks and knows -----------------------------------------------------------

    def asking(self, prompt):
        self.responding(repr(self.raw_input(prompt)))

    def asking_secretly(self, prompt):
        self.responding(repr(self.getpass(prompt)))

    def telling_the_parent(self, _):
        self.responding(self.get_parent()["content"]["code"])

    def telling_the_ports(self, _):
        self.responding(" ".join(sorted(self._recorded_ports)))

    # --- comms ----------------------------------------------------------------------------

    def opened(self, opened, message):
        def received(got):
            opened.send({"echo": got["content"]["data"]}, buffers=got["buffers"])

        opened.on_msg(received)
        opened.send({"hello": message["content"]["data"]})

    def opening(self, target):
        self.comm = comm.create_comm(target_name=target, data={"from": "kernel"})


class AsyncPlainKernel(PlainKernel):
    """The same with coroutines, as ipykernel recommends."""

    async def do_execute(self, code, silent, store_history=True, *_, **__):
        await asyncio.sleep(0)
        return super().do_execute(code, silent)


class OverridingKernel(PlainKernel):
    """Handles more, and less, than others do."""

    msg_types = [*PlainKernel.msg_types, "greet_request"]
    control_msg_types = [*PlainKernel.control_msg_types, "greet_request"]

    async def greet_request(self, stream, ident, parent):
        content = {"greeting": f"hello {parent['content']['name']}"}
        self.session.send(stream, "greet_reply", content, parent, ident)

    @property
    def kernel_info(self):
        return {**super().kernel_info, "banner": "Made by me"}

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
