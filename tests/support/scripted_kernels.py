"""Kernels on echokernel's base class whose cells are instructions."""

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
    """Print in one write: ``print`` writes twice, and a flush in between makes two messages."""
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


class ScriptedKernel(Kernel):
    """Each cell is the name of a method and one argument: ``sleep 3``."""

    implementation = "scripted"
    implementation_version = "1"
    banner = "A kernel for tests"
    language_info = {"name": "scripted", "mimetype": "text/plain", "file_extension": ".txt"}

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

    def catch_interrupt(self, seconds):
        """Continue after an interrupt, as code with its own ``except`` does."""
        try:
            self.sleep(seconds)
        except KeyboardInterrupt:
            print_line("not now")

    def catch_everything(self, seconds):
        """Continue after every exception."""
        print_line("asleep")
        while True:
            try:
                time.sleep(float(seconds))
            except BaseException:
                continue

    def break_stdout(self, _):
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

    def return_text(self, _):
        return "not a reply"

    def say(self, text):
        print_line(text)

    def say_to_stderr(self, text):
        sys.stderr.write(f"{text}\n")

    def say_in_a_thread(self, text):
        thread = threading.Thread(target=print_line, args=(text,))
        thread.start()
        thread.join()

    def print_below_python(self, text):
        """Print by Python, a C call, a child process, a forked child, and Python again."""
        print("python")
        os.write(1, b"descriptor\n")
        os.system("echo child process")
        if os.fork() == 0:
            print("forked child")
            os._exit(0)
        os.wait()
        print("python again")

    def write_stderr_below_python(self, text):
        os.write(2, text.encode())

    def write_half_a_character(self, _):
        euro = "\u20ac".encode()
        os.write(1, euro[:1])
        print("between", flush=True)
        os.write(1, euro[1:])

    def start_child(self, gate):
        """Start a child that prints when the other end of the named pipe ``gate`` is opened."""
        code = "import sys; open(sys.argv[1]).close(); print('late')"
        subprocess.Popen([sys.executable, "-c", code, gate])

    def log_warning(self, text):
        self.log.warning("logged %s", text)

    def fork(self, how):
        """Fork a child that ends in an unusual way; print its exit code."""
        child = os.fork()
        if child == 0:
            if how == "return":
                return
            if how == "raise":
                raise ValueError("in the child")
            if how == "exit":
                sys.exit(3)
            while True:
                time.sleep(0.01)  # a signal just before a long sleep is handled after it
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

    def send_comm_message(self, text):
        content = {"comm_id": "c", "data": {"text": text}}
        self.send_response(self.iopub_socket, "comm_msg", content)

    def child(self, seconds):
        print_line("asleep")
        subprocess.run([sys.executable, "-c", f"import time; time.sleep({seconds})"], check=True)

    def exit(self, status):
        sys.exit(int(status))


class AsyncScriptedKernel(ScriptedKernel):
    """ScriptedKernel with ``do_execute`` as a coroutine, as ipykernel recommends."""

    async def do_execute(self, code, silent, store_history=True, user_expressions=None, **_):
        reply = super().do_execute(code, silent)
        return await reply if asyncio.iscoroutine(reply) else reply
