"""What users of IPython's kernel rely on, under our app: ipykernel's class, unchanged."""

import itertools
import json
import os
import re
import signal

import pytest
import zmq
from support.cells import begin_cell, defect, finish_cell, run_cell, start_kernel_class
from support.waits import DEADLINE, poll_until

from echokernel.conformance.raw_client import SECOND
from echokernel.conformance.raw_messages import IDLE

IPYTHON = "ipykernel.ipkernel:IPythonKernel"
NO_APP = "no IPKernelApp is initialized in the process, or knows the kernel"


@pytest.fixture
def ipython(context, tmp_path, start):
    return start_kernel_class(IPYTHON, context, tmp_path, start)


# --- output ---------------------------------------------------------------------------------


def test_rich_output(ipython):
    ran = run_cell(ipython, "from IPython.display import HTML, clear_output, display\n"
                       "shown = display('a', display_id='one')\nshown.update('b')\n"
                       "clear_output(wait=True)\ndisplay(HTML('<b>x</b>'))\n40 + 2")  # fmt: skip
    assert ran.kinds == [
        "display_data",
        "update_display_data",
        "clear_output",
        "display_data",
        "execute_result",
    ]
    assert [content["transient"] for _, content in ran.published[:2]] == [{"display_id": "one"}] * 2
    assert ran.published[2][1] == {"wait": True}
    assert ran.data("display_data")[1]["text/html"] == "<b>x</b>"
    assert ran.result == "42"


def test_output_of_children(ipython):
    """Magics that read a child's pipe or terminal, and a child that is given ours."""
    ran = run_cell(ipython, "%%bash\necho out\necho err >&2")
    assert (ran.text(), ran.text("stderr")) == ("out\n", "err\n")
    assert run_cell(ipython, "!echo out; echo err >&2").text() == "out\r\nerr\r\n"
    assert run_cell(ipython, "said = !echo out\nsaid").result == "['out']"
    code = "import subprocess, sys\nsubprocess.run(['true'], stdout=sys.stdout).returncode"
    assert run_cell(ipython, code).result == "0"
    assert run_cell(ipython, "sys.exit(3)").reply["ename"] == "SystemExit"


def test_output_past_sys_stdout(ipython):
    """What C code and children write to the process's own descriptors."""
    run_cell(ipython, "import os, subprocess, sys")
    ways = (
        "os.system('echo one')",
        "os.write(1, b'one\\n')",
        "subprocess.run(['echo', 'one'])",
        "subprocess.run(['echo', 'one'], stdout=sys.stdout)",
    )
    assert {way: run_cell(ipython, f"{way};").text() for way in ways} == dict.fromkeys(
        ways, "one\n"
    )


def test_logs_and_warnings(ipython):
    """User code's log is output like any other, handlers made by ``basicConfig`` included."""
    code = "import logging; logging.warning('odd')"
    assert run_cell(ipython, code).text("stderr") == "WARNING:root:odd\n"
    code = "logging.basicConfig(level='INFO', format='%(message)s', force=True)"
    assert run_cell(ipython, f"{code}; logging.info('noted')").text("stderr") == "noted\n"
    code = "import warnings; warnings.warn('careful')"
    assert "UserWarning: careful" in run_cell(ipython, code).text("stderr")


def test_captured_and_redirected_output(ipython):
    assert run_cell(ipython, "%%capture kept\nprint('out'); display('shown'); 5").published == []
    assert run_cell(ipython, "kept.stdout, len(kept.outputs)").result == "('out\\n', 2)"
    ran = run_cell(ipython, "import contextlib, io\n"
                       "with contextlib.redirect_stdout(io.StringIO()) as kept: print('out')\n"
                       "kept.getvalue()")  # fmt: skip
    assert (ran.text(), ran.result) == ("", "'out\\n'")


@defect("OutStream.register_hook: ipykernel's needs what its __init__ sets up")
def test_a_hook_on_the_stream(ipython):
    """ipykernel calls hooks with each message; one that returns None keeps it back."""
    assert run_cell(ipython, "import sys; sys.stdout.register_hook(lambda msg: None)").kinds == []
    assert run_cell(ipython, "print('hidden')").published == []


def test_a_hook_on_displays(ipython):
    """``display_pub.register_hook``: what solara and other frameworks listen on."""
    run_cell(ipython, "kept = []\nget_ipython().display_pub.register_hook(kept.append)")
    assert run_cell(ipython, "display('shown')").published == []
    assert run_cell(ipython, "kept[0]['content']['data']").result == "{'text/plain': \"'shown'\"}"


def test_errors(ipython):
    """A traceback of the user's frames; pages, what is not code, and threads' exceptions."""
    failed = run_cell(ipython, "def fail(): return 1 / 0\nfail()").reply
    assert failed["ename"] == "ZeroDivisionError"
    assert "in \x1b[36mfail" in "\n".join(failed["traceback"])
    assert run_cell(ipython, "for for").reply["ename"] == "SyntaxError"
    [page] = run_cell(ipython, "print?").reply["payload"]
    assert "Docstring:" in page["data"]["text/plain"]
    ran = run_cell(ipython, "import threading\ndef fail(): raise ValueError('in a thread')\n"
                       "t = threading.Thread(target=fail); t.start(); t.join()")  # fmt: skip
    assert "ValueError: in a thread" in ran.text("stderr")


# --- children that are copies of the kernel -----------------------------------------------------


FORKED = "import multiprocessing; process = multiprocessing.get_context('fork').Process"


def test_what_a_forked_child_prints(ipython):
    code = f"{FORKED}(target=print, args=('one',)); process.start(); process.join()"
    assert run_cell(ipython, code).text() == "one\n"


def test_a_forked_child_that_prints_with_logging_configured(ipython):
    """A log record made while the child prints must not print in turn, and so on for ever."""
    run_cell(ipython, "import logging; logging.basicConfig()")
    msg_id = ipython.execute(
        f"{FORKED}(target=print, args=('one',)); process.start(); process.join(15)\n"
        "ended = process.exitcode; process.kill(); assert ended == 0"
    )
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"


def test_a_forked_child_that_is_terminated(ipython):
    """As ``multiprocessing.Pool`` ends its workers: the child ends, and nobody else."""
    code = f"{FORKED}(target=__import__('time').sleep, args=(60,)); process.start()"
    assert run_cell(ipython, code).reply["status"] == "ok"
    assert (
        run_cell(ipython, "process.terminate(); process.join(); process.exitcode").result == "-15"
    )
    # Bytes that look like a signal are acted upon after 20 ms: ten times that, and it lives.
    msg_id = ipython.execute("import asyncio; await asyncio.sleep(0.2)")
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"


def test_a_forked_child_leaves_the_files_alone(ipython, start, runtime_dir, context):
    """H6: whoever is forked is not the kernel: the connection file is not its own."""
    process = start(None, "--kernel-class", IPYTHON, PYDEVD_DISABLE_FILE_VALIDATION="1")
    path = runtime_dir / f"kernel-{process.pid}.json"
    poll_until(path.exists, "the kernel runs")
    ipython.close()
    client = type(ipython)(context, json.loads(path.read_text()))
    # The child alone: it does not tell the kernel that it got a signal.
    run_cell(client, "import os, signal, time\npid = os.fork()\n"
                "if not pid: signal.set_wakeup_fd(-1); signal.raise_signal(signal.SIGTERM)\n"
                "os.waitpid(pid, 0);")  # fmt: skip
    left = path.exists()
    client.shut_down()
    process.wait_for_end()
    assert left


# --- comms, tasks, threads --------------------------------------------------------------------


def test_widgets(ipython):
    """ipywidgets: opened by a cell, moved by the frontend, whose message the observers answer."""
    ran = run_cell(ipython, "import ipywidgets\nslider = ipywidgets.IntSlider()\n"
                       "slider.observe(lambda new: print(new.new), 'value')\nslider")  # fmt: skip
    [model] = [content["comm_id"] for kind, content in ran.published if kind == "comm_open"
               if content["data"]["state"]["_model_name"] == "IntSliderModel"]  # fmt: skip
    [view] = ran.data("execute_result")
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == model
    moved = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    msg_id = ipython.send("comm_msg", {"comm_id": model, "data": moved})
    assert ("stream", {"name": "stdout", "text": "7\n"}) in ipython.receive_until_idle(msg_id)
    assert run_cell(ipython, "slider.value").result == "7"
    closed = run_cell(ipython, "slider.close()").published
    assert ("comm_close", {"comm_id": model, "data": {}}) in closed


def test_an_output_widget(ipython):
    """It learns the request that prints into it: the frontend takes that request's output."""
    code = "import ipywidgets\nshown = ipywidgets.Output()\nwith shown: print('inside')"
    msg_id = ipython.execute(code)
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"
    updates = [
        content["data"]["state"]["msg_id"]
        for kind, content in ipython.receive_until_idle(msg_id)
        if kind == "comm_msg" and "msg_id" in content["data"].get("state", {})
    ]
    assert updates == [msg_id, ""]


def test_a_comm_message_that_an_async_cell_waits_for(ipython):
    """C6: ipykernel 7.4 handles comms while a cell awaits; a request in a cell needs it."""
    msg_id = begin_cell(ipython, "import asyncio, comm\nanswer = asyncio.Future()\n"
                            "asked = comm.create_comm(target_name='view')\n"
                            "asked.on_msg(lambda got: answer.set_result(got['content']['data']))\n"
                            "print('asleep', asked.comm_id)\n"
                            "await asyncio.wait_for(answer, 15)")  # fmt: skip
    [comm_id] = ipython.request("comm_info_request", {}, "control")["comms"]
    ipython.send("comm_msg", {"comm_id": comm_id, "data": {"b": 1}})
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"


def test_asyncio(ipython):
    """The kernel's loop is the cell's: tasks live on, and belong to the cell that made them."""
    code = (
        "import asyncio\nfree = asyncio.Event()\nasync def late(): await free.wait(); print('late')"
    )
    msg_id = ipython.execute(f"{code}\ntask = asyncio.create_task(late())")
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"
    assert ipython.receive_until_idle(msg_id)[-1] == IDLE
    setting = ipython.execute("free.set()")
    ipython.receive_reply(setting)
    heard = [
        ipython.receive_publication() for _ in range(4)
    ]  # the next cell's busy, input and idle
    [late] = [got for got in heard if got["msg_type"] == "stream"]
    assert late["parent_header"]["msg_id"] == msg_id
    assert run_cell(ipython, "asyncio.get_running_loop().is_running()").result == "True"
    failed = run_cell(ipython, "asyncio.run(late())").reply
    assert "running event loop" in failed["evalue"]


def test_what_the_kernel_shows_to_user_code(ipython):
    """Idioms that are in libraries and notebooks everywhere."""
    shown = {
        "get_ipython().kernel.shell is get_ipython()": "True",
        "'IPKernelApp' in get_ipython().config": "True",  # tqdm.auto: a notebook, no terminal
        "type(get_ipython()).__name__": "'ZMQInteractiveShell'",
        "__name__": "'__main__'",
        "get_ipython().kernel.get_parent()['header']['msg_type']": "'execute_request'",
        "get_ipython().parent_header['header']['msg_type']": "'execute_request'",
        "import sys; isinstance(sys.stdout, __import__('ipykernel').iostream.OutStream)": "True",
        "sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.writable()": "('UTF-8', False, True)",
    }
    assert {code: run_cell(ipython, code).result for code in shown} == shown


# --- what ipykernel's app does for IPython --------------------------------------------------------


@defect(NO_APP)
@pytest.mark.parametrize(
    "code",
    [
        "%matplotlib inline",
        "%gui asyncio",
        "from ipykernel.connect import get_connection_file; open(get_connection_file()).close()",
        "%store",
    ],
)
def test_what_needs_the_app(code, ipython):
    ran = run_cell(ipython, code)
    assert (ran.reply["status"], ran.text("stderr")) == ("ok", "")


@defect("MPLBACKEND is not set before user code runs")
def test_plots_are_inline(ipython):
    """Without any magic: a figure is shown at the end of its cell."""
    ran = run_cell(ipython, "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert "image/png" in ran.data("display_data")[0]


@defect("profile's config and startup files are not read")
def test_the_users_profile(context, tmp_path, start):
    folder = tmp_path / "ipython" / "profile_default"
    (folder / "startup").mkdir(parents=True)
    (folder / "startup" / "00-mine.py").write_text("from_startup = 1")
    (folder / "ipython_config.py").write_text(
        "c.InteractiveShellApp.exec_lines = ['from_lines = 2']\nc.InteractiveShell.xmode = 'Plain'"
    )
    client = start_kernel_class(IPYTHON, context, tmp_path, start)
    code = "from_startup, from_lines, get_ipython().InteractiveTB.mode"
    assert run_cell(client, code).result == "(1, 2, 'Plain')"


@defect("sys.path begins with the folder of the start instead of ''")
def test_modules_in_the_current_directory(ipython, tmp_path):
    """Also after ``%cd``: ipykernel's app puts '' on the path."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine_alone.py").write_text("found = 5")
    run_cell(ipython, f"%cd {tmp_path}/elsewhere")
    assert run_cell(ipython, "import mine_alone; mine_alone.found").result == "5"


def test_settings_on_the_command_line(context, tmp_path, start):
    words = ("--HistoryManager.hist_file=:memory:", "--InteractiveShell.xmode=Plain")
    client = start_kernel_class(IPYTHON, context, tmp_path, start, *words)
    ip = "get_ipython()"
    shown = run_cell(client, f"{ip}.history_manager.hist_file, {ip}.InteractiveTB.mode").result
    assert shown == "(':memory:', 'Plain')"


# --- questions, interrupts, the end --------------------------------------------------------------


def test_a_debugger_in_the_cell(ipython):
    """``%debug`` after an error: the debugger's questions go through stdin."""
    run_cell(ipython, "def fail(wanted): return wanted / 0\nfail(5)")
    ran = run_cell(ipython, "%debug", ["p wanted + 1", "q"])
    assert ran.reply["status"] == "ok"
    assert "6" in ran.text().split()


def test_interrupting_a_question(ipython):
    for code in ("input('name? ')", "import getpass; getpass.getpass('pin? ')"):
        msg_id = ipython.execute(code, allow_stdin=True)
        ipython.receive_on("stdin")
        os.killpg(ipython.process.pid, signal.SIGINT)
        assert finish_cell(ipython, msg_id).reply["ename"] == "KeyboardInterrupt"


@defect("pdb.Pdb swallows it and asks again; ipykernel's app installs IPython's InterruptiblePdb")
def test_interrupting_the_debugger(ipython):
    msg_id = ipython.execute("import pdb; pdb.set_trace()", allow_stdin=True)
    ipython.receive_on("stdin")
    os.killpg(ipython.process.pid, signal.SIGINT)
    poller = zmq.Poller()
    for channel in (ipython.shell, ipython.stdin):
        poller.register(channel, zmq.POLLIN)
    answered = [channel for channel, _ in poller.poll(DEADLINE * SECOND)]
    assert answered == [ipython.shell], "a reply, and not a question"
    assert finish_cell(ipython, msg_id).reply["status"] in ("ok", "error")


def test_interrupting(ipython):
    """Wherever the main thread is; the next cell runs as if nothing had been."""
    run_cell(ipython, "import asyncio, subprocess, threading, time")
    ends = {
        "def deep(n): deep(n - 1) if n else time.sleep(60)\n{asleep}; deep(50)": "error",
        "{asleep}; subprocess.run(['sleep', '60'])": "error",
        "!echo asleep; sleep 60": "ok",  # IPython hands it on to the child
        "%%bash\necho asleep; sleep 60": "error",
        "lock = threading.Lock(); lock.acquire(); {asleep}; lock.acquire()": "error",
        "{asleep}\nwhile True: pass": "error",
        "{asleep}; await asyncio.gather(*[asyncio.sleep(60) for _ in range(3)])": "error",
        "{asleep}; await asyncio.to_thread(time.sleep, 60)": "error",
        "{asleep}\ntry: time.sleep(60)\nexcept KeyboardInterrupt: pass": "ok",
    }
    ended = {}
    for code in ends:
        msg_id = begin_cell(ipython, code.replace("{asleep}", "print('asleep')"))
        os.killpg(ipython.process.pid, signal.SIGINT)
        ended[code] = finish_cell(ipython, msg_id).reply["status"]
        assert run_cell(ipython, "40 + 2").result == "42"
    assert ended == ends


def test_a_signal_handler_of_the_users_own(ipython):
    """While it is there it is called; ours comes back when it is put back."""
    # Short sleeps: no Python handler runs when a signal falls just before a long one.
    sleep = "print('asleep')\nwhile True: time.sleep(0.01)"
    own = "import signal, time; before = signal.signal(signal.SIGINT, lambda *_: 1 / 0)"
    for first, ename in [(own, "ZeroDivisionError"), ("", "KeyboardInterrupt")]:
        msg_id = begin_cell(ipython, f"{first}\n{sleep}")
        os.killpg(ipython.process.pid, signal.SIGINT)
        assert finish_cell(ipython, msg_id).reply["ename"] == ename
        run_cell(ipython, "signal.signal(signal.SIGINT, before);")


def test_signal_handlers_that_raise_while_output_is_sent(ipython):
    # pyzmq runs them in every send: half a message would stay, and break the next one.
    ran = run_cell(
        ipython,
        "import signal, itertools\n"
        "from IPython.display import display\n"
        "class Alarm(Exception): pass\n"
        "def ring(*_):\n"
        "    print('rings')\n"
        "    raise Alarm\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "for _ in range(100):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.002)\n"
        "        for number in itertools.count():\n"
        "            display({'text/plain': str(number)}, raw=True)\n"
        "    except Alarm:\n"
        "        pass\n",
    )
    assert ran.reply["status"] == "ok"
    assert ran.text() == "rings\n" * 100
    numbers = [int(bundle["text/plain"]) for bundle in ran.data("display_data")]
    assert all(after in (before + 1, 0) for before, after in itertools.pairwise(numbers))
    ipython.expect_nothing_unread()


@pytest.mark.parametrize("how", ["", ", flush=True"])
def test_half_a_character(how, ipython):
    """It is printed as Python writes it, and harms nothing around it."""
    ran = run_cell(ipython, f"print('before'{how})\nprint('\\ud83d'{how})\nprint('\u00e9'{how})")
    assert ran.reply["status"] == "ok"
    assert ran.text() == "before\n\\ud83d\n\u00e9\n"
    assert run_cell(ipython, "print('after')").text() == "after\n"


def test_signal_handlers_that_raise_while_lines_are_printed(ipython):
    """A line whose print has returned is published, and none is twice."""
    ran = run_cell(
        ipython,
        "import signal, itertools\n"
        "class Alarm(Exception): pass\n"
        "def ring(*_): raise Alarm\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "numbers, printed = itertools.count(), []\n"
        "for _ in range(300):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.002)\n"
        "        for number in numbers:\n"
        "            print(f'<{number}>', end='', flush=number % 20 == 0)\n"
        "            printed.append(number)\n"
        "    except Alarm:\n"
        "        pass\n"
        "print('printed', printed)\n",
    )
    assert ran.reply["status"] == "ok"
    text, _, printed = ran.text().partition("printed")
    numbers = [int(number) for number in re.findall(r"<(\d+)>", text)]
    assert set(json.loads(printed)) <= set(numbers)
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("code", ["exit", "quit()"])
def test_exit(code, ipython):
    """The frontend is asked whether to keep the kernel, which then ends by itself."""
    ran = run_cell(ipython, code)
    assert ran.reply["payload"] == [{"source": "ask_exit", "keepkernel": False}]
    assert ipython.process.wait_for_end(DEADLINE) == (0, "")


def test_history_outlives_the_kernel(ipython, context, tmp_path, start):
    run_cell(ipython, "remembered = 5")
    ipython.shut_down()
    assert ipython.process.wait_for_end()[0] == 0
    again = start_kernel_class(IPYTHON, context, tmp_path, start)
    tail = {"hist_access_type": "tail", "n": 1, "output": False, "raw": True}
    [[_, line, text]] = again.request("history_request", tail)["history"]
    assert (line, text) == (1, "remembered = 5")


def test_other_requests(ipython):
    run_cell(ipython, "alpha = 5")
    completed = ipython.request("complete_request", {"code": "alp", "cursor_pos": 3})
    assert "alpha" in completed["matches"]
    inspected = ipython.request("inspect_request", {"code": "alpha", "cursor_pos": 2})
    assert "int" in inspected["data"]["text/plain"]
    for code, status in [("a = [1,", "incomplete"), ("a = 1", "complete"), ("a = )", "invalid")]:
        assert ipython.request("is_complete_request", {"code": code})["status"] == status
    ran = run_cell(ipython, "1", user_expressions={"b": "alpha + 1", "c": "nothing"})
    expressions = ran.reply["user_expressions"]
    assert expressions["b"]["data"] == {"text/plain": "6"}
    assert expressions["c"]["ename"] == "NameError"
    ipython.expect_nothing_unread()


def test_a_debugger_that_is_not_there(ipython):
    """K2: no debugger is advertised; who asks all the same is answered."""
    asked = {"type": "request", "seq": 1, "command": "initialize", "arguments": {}}
    assert ipython.request("debug_request", asked, "control")["status"] == "error"
