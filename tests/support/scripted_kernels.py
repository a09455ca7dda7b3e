"""Kernels that authors might write, for the tests: one that does what its cell says."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

from echokernel import Kernel

OK = {"status": "ok", "payload": [], "user_expressions": {}}


def print_line(*words):
    """Print, in one write: where ``print`` writes twice, a flush between makes two messages."""
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


class ScriptedKernel(Kernel):
    """Each cell is the name of a method, with one argument: ``sleep 3``."""

    implementation = "doing"
    implementation_version = "1"
    banner = "A kernel for tests"
    language_info = {"name": "doing", "mimetype": "text/plain", "file_extension": ".txt"}

    def do_execute(self, code, silent, store_history=True, user_expressions=None, **_):
        name, _, argument = code.partition(" ")
        return getattr(self, name)(argument) or {**OK, "execution_count": self.execution_count}

    def sleep(self, seconds):
        print_line("asleep")
        deadline = time.monotonic() + float(seconds)
        while time.monotonic() < deadline:
            time.sleep(min(0.2, float(seconds)))

    def sleep_in_one_call(self, seconds):
        print_line("asleep")
        time.sleep(float(seconds))

    async def sleep_async(self, seconds):
        print_line("asleep")
        await asyncio.sleep(float(seconds))
        return {**OK, "execution_count": self.execution_count}

    async def wait_for(self, path):
        print_line("asleep")
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        return {**OK, "execution_count": self.execution_count}

    def swallow(self, seconds):
        """Go on after an interrupt, as code with an ``except`` of its own does."""
        try:
            self.sleep(seconds)
        except KeyboardInterrupt:
            print_line("not now")

    def stay(self, seconds):
        """Let nothing pass."""
        print_line("asleep")
        while True:
            try:
                time.sleep(float(seconds))
            except BaseException:
                continue

    def spoil(self, _):
        sys.stdout = object()

    def cancel(self, _):
        raise asyncio.CancelledError

    def do_complete(self, code, cursor_pos):
        self.sleep(60)

    def do_inspect(self, code, cursor_pos, detail_level=0, omit_sections=()):
        self.sleep(60)

    async def do_is_complete(self, code):
        await self.sleep_async(60)

    def ask(self, prompt):
        print(repr(self.raw_input(prompt)))

    def ask_password(self, prompt):
        print(repr(self.getpass(prompt)))

    def fail(self, text):
        raise ValueError(text)

    def error(self, text):
        return {"status": "error", "ename": "Error", "evalue": text, "traceback": []}

    def nothing(self, _):
        return "not a reply"

    def say(self, text):
        print_line(text)

    def say_to_stderr(self, text):
        sys.stderr.write(f"{text}\n")

    def say_in_a_thread(self, text):
        thread = threading.Thread(target=print_line, args=(text,))
        thread.start()
        thread.join()

    def say_below_python(self, text):
        """In pieces: by Python, a C call, a child process, a forked child, and Python again."""
        print("python")
        os.write(1, b"descriptor\n")
        os.system("echo child process")
        if os.fork() == 0:
            print("forked child")
            os._exit(0)
        os.wait()
        print("python again")

    def complain_below_python(self, text):
        os.write(2, text.encode())

    def write_half_a_character(self, _):
        euro = "\u20ac".encode()
        os.write(1, euro[:1])
        print("between", flush=True)
        os.write(1, euro[1:])

    def leave_a_child_behind(self, gate):
        """It waits until somebody opens the other end of the named pipe ``gate``."""
        code = "import sys; open(sys.argv[1]).close(); print('late')"
        subprocess.Popen([sys.executable, "-c", code, gate])

    def say_to_the_log(self, text):
        self.log.warning("logged %s", text)

    def fork(self, how):
        """Have a child that ends in an unusual way; tell when it is gone."""
        child = os.fork()
        if child == 0:
            if how == "return":
                return
            if how == "raise":
                raise ValueError("in the child")
            if how == "exit":
                sys.exit(3)
            while True:
                time.sleep(0.01)  # a signal just before a long sleep is not handled
        if how.startswith("SIG"):
            os.kill(child, getattr(signal, how))
        _, status = os.wait()
        print("child gone:", os.waitstatus_to_exitcode(status))

    def crash(self, _):
        os.kill(os.getpid(), signal.SIGSEGV)

    def say_many(self, count):
        for number in range(int(count)):
            print(number, flush=True)

    def display_many(self, how):
        """``count [size]``: numbered displays of ``size`` bytes."""
        count, _, size = how.partition(" ")
        padding = "x" * int(size or 1)
        for number in range(int(count)):
            content = {"data": {"text/plain": f"{number} {padding}"}, "metadata": {}}
            self.send_response(self.iopub_socket, "display_data", content)

    def tell_a_comm(self, text):
        content = {"comm_id": "c", "data": {"text": text}}
        self.send_response(self.iopub_socket, "comm_msg", content)

    def child(self, seconds):
        print_line("asleep")
        subprocess.run([sys.executable, "-c", f"import time; time.sleep({seconds})"], check=True)

    def leave(self, status):
        sys.exit(int(status))


class AsyncScriptedKernel(ScriptedKernel):
    """The same with a coroutine, as ipykernel recommends."""

    async def do_execute(self, code, silent, store_history=True, user_expressions=None, **_):
        reply = super().do_execute(code, silent)
        return await reply if asyncio.iscoroutine(reply) else reply
