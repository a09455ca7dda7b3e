"""Features that users of IPython's kernel rely on, with ipykernel's class on echokernel."""

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
NO_APP = "the process has no IPKernelApp that knows the kernel"


@pytest.fixture
def ipython(context, tmp_path, start):
    return start_kernel_class(IPYTHON, context, tmp_path, start)


# --- output ---------------------------------------------------------------------------------


def test_rich_output_is_published(ipython):
    cell = run_cell(ipython, "from IPython.display import HTML, clear_output, display\n"
                       "shown = display('a', display_id='one')\nshown.update('b')\n"
                       "clear_output(wait=True)\ndisplay(HTML('<b>x</b>'))\n40 + 2")  # fmt: skip
    assert cell.kinds == [
        "display_data",
        "update_display_data",
        "clear_output",
        "display_data",
        "execute_result",
    ]
    assert [content["transient"] for _, content in cell.published[:2]] == [
        {"display_id": "one"}
    ] * 2
    assert cell.published[2][1] == {"wait": True}
    assert cell.data("display_data")[1]["text/html"] == "<b>x</b>"
    assert cell.result == "42"


def test_output_of_children_is_published(ipython):
    """Of children on a pipe or terminal of a magic, and on the kernel's own stdout."""
    cell = run_cell(ipython, "%%bash\necho out\necho err >&2")
    assert (cell.text(), cell.text("stderr")) == ("out\n", "err\n")
    assert run_cell(ipython, "!echo out; echo err >&2").text() == "out\r\nerr\r\n"
    assert run_cell(ipython, "output = !echo out\noutput").result == "['out']"
    code = "import subprocess, sys\nsubprocess.run(['true'], stdout=sys.stdout).returncode"
    assert run_cell(ipython, code).result == "0"
    assert run_cell(ipython, "sys.exit(3)").reply["ename"] == "SystemExit"


def test_output_past_sys_stdout_is_published(ipython):
    """C code and children write to the process's own descriptors."""
    run_cell(ipython, "import os, subprocess, sys")
    codes = (
        "os.system('echo one')",
        "os.write(1, b'one\\n')",
        "subprocess.run(['echo', 'one'])",
        "subprocess.run(['echo', 'one'], stdout=sys.stdout)",
    )
    assert {code: run_cell(ipython, f"{code};").text() for code in codes} == dict.fromkeys(
        codes, "one\n"
    )


def test_logs_and_warnings_of_user_code_are_output(ipython):
    """Including the output of handlers that ``basicConfig`` installs."""
    code = "import logging; logging.warning('odd')"
    assert run_cell(ipython, code).text("stderr") == "WARNING:root:odd\n"
    code = "logging.basicConfig(level='INFO', format='%(message)s', force=True)"
    assert run_cell(ipython, f"{code}; logging.info('noted')").text("stderr") == "noted\n"
    code = "import warnings; warnings.warn('careful')"
    assert "UserWarning: careful" in run_cell(ipython, code).text("stderr")


def test_captured_and_redirected_output_is_not_published(ipython):
    assert run_cell(ipython, "%%capture kept\nprint('out'); display('shown'); 5").published == []
    assert run_cell(ipython, "kept.stdout, len(kept.outputs)").result == "('out\\n', 2)"
    cell = run_cell(ipython, "import contextlib, io\n"
                       "with contextlib.redirect_stdout(io.StringIO()) as kept: print('out')\n"
                       "kept.getvalue()")  # fmt: skip
    assert (cell.text(), cell.result) == ("", "'out\\n'")


@defect("OutStream.register_hook: ipykernel's method needs attributes that its __init__ sets")
def test_a_hook_on_the_stream_can_suppress_output(ipython):
    """ipykernel calls hooks with each message; a hook that returns None suppresses it."""
    assert run_cell(ipython, "import sys; sys.stdout.register_hook(lambda msg: None)").kinds == []
    assert run_cell(ipython, "print('hidden')").published == []


def test_a_hook_on_displays_receives_the_message(ipython):
    """``display_pub.register_hook``, which solara and other frameworks use."""
    run_cell(ipython, "kept = []\nget_ipython().display_pub.register_hook(kept.append)")
    assert run_cell(ipython, "display('shown')").published == []
    assert run_cell(ipython, "kept[0]['content']['data']").result == "{'text/plain': \"'shown'\"}"


def test_errors_and_pages_are_reported(ipython):
    """A traceback of the user's frames, a syntax error, a page, an exception in a thread."""
    failed = run_cell(ipython, "def fail(): return 1 / 0\nfail()").reply
    assert failed["ename"] == "ZeroDivisionError"
    assert "in \x1b[36mfail" in "\n".join(failed["traceback"])
    assert run_cell(ipython, "for for").reply["ename"] == "SyntaxError"
    [page] = run_cell(ipython, "print?").reply["payload"]
    assert "Docstring:" in page["data"]["text/plain"]
    cell = run_cell(ipython, "import threading\ndef fail(): raise ValueError('in a thread')\n"
                       "t = threading.Thread(target=fail); t.start(); t.join()")  # fmt: skip
    assert "ValueError: in a thread" in cell.text("stderr")


# --- forked children ----------------------------------------------------------------------------


FORKED = "import multiprocessing; process = multiprocessing.get_context('fork').Process"


def test_output_of_a_forked_child_is_published(ipython):
    code = f"{FORKED}(target=print, args=('one',)); process.start(); process.join()"
    assert run_cell(ipython, code).text() == "one\n"


def test_a_forked_child_can_print_with_logging_configured(ipython):
    """A log record during the child's print must not cause endless recursion."""
    run_cell(ipython, "import logging; logging.basicConfig()")
    msg_id = ipython.execute(
        f"{FORKED}(target=print, args=('one',)); process.start(); process.join(15)\n"
        "ended = process.exitcode; process.kill(); assert ended == 0"
    )
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"


def test_a_terminated_child_does_not_end_the_kernel(ipython):
    """``multiprocessing.Pool`` ends its workers with SIGTERM, too."""
    code = f"{FORKED}(target=__import__('time').sleep, args=(60,)); process.start()"
    assert run_cell(ipython, code).reply["status"] == "ok"
    assert (
        run_cell(ipython, "process.terminate(); process.join(); process.exitcode").result == "-15"
    )
    # The kernel handles a byte of the wakeup descriptor after 20 ms; it still runs after 200 ms.
    msg_id = ipython.execute("import asyncio; await asyncio.sleep(0.2)")
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"


def test_a_forked_child_does_not_remove_the_connection_file(ipython, start, runtime_dir, context):
    """H6: the file belongs to the kernel's process."""
    process = start(None, "--kernel-class", IPYTHON, PYDEVD_DISABLE_FILE_VALIDATION="1")
    path = runtime_dir / f"kernel-{process.pid}.json"
    poll_until(path.exists, "the kernel runs")
    ipython.close()
    client = type(ipython)(context, json.loads(path.read_text()))
    # Without the wakeup descriptor the child's signal does not reach the kernel.
    run_cell(client, "import os, signal, time\npid = os.fork()\n"
                "if not pid: signal.set_wakeup_fd(-1); signal.raise_signal(signal.SIGTERM)\n"
                "os.waitpid(pid, 0);")  # fmt: skip
    exists = path.exists()
    client.shut_down()
    process.wait_for_end()
    assert exists


# --- comms, tasks, threads --------------------------------------------------------------------


def test_a_widget_is_opened_moved_and_closed(ipython):
    """ipywidgets: a cell opens it, and the frontend's update calls its observers."""
    cell = run_cell(ipython, "import ipywidgets\nslider = ipywidgets.IntSlider()\n"
                       "slider.observe(lambda new: print(new.new), 'value')\nslider")  # fmt: skip
    [model] = [content["comm_id"] for kind, content in cell.published if kind == "comm_open"
               if content["data"]["state"]["_model_name"] == "IntSliderModel"]  # fmt: skip
    [view] = cell.data("execute_result")
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == model
    moved = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    msg_id = ipython.send("comm_msg", {"comm_id": model, "data": moved})
    assert ("stream", {"name": "stdout", "text": "7\n"}) in ipython.receive_until_idle(msg_id)
    assert run_cell(ipython, "slider.value").result == "7"
    closed = run_cell(ipython, "slider.close()").published
    assert ("comm_close", {"comm_id": model, "data": {}}) in closed


def test_an_output_widget_has_the_id_of_the_request(ipython):
    """The frontend shows the output of that request in the widget."""
    code = "import ipywidgets\nshown = ipywidgets.Output()\nwith shown: print('inside')"
    msg_id = ipython.execute(code)
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"
    updates = [
        content["data"]["state"]["msg_id"]
        for kind, content in ipython.receive_until_idle(msg_id)
        if kind == "comm_msg" and "msg_id" in content["data"].get("state", {})
    ]
    assert updates == [msg_id, ""]


def test_an_async_cell_receives_a_comm_message(ipython):
    """C6: a request in a cell needs comm messages while the cell awaits; ipykernel 7.4 does so."""
    msg_id = begin_cell(ipython, "import asyncio, comm\nanswer = asyncio.Future()\n"
                            "asked = comm.create_comm(target_name='view')\n"
                            "asked.on_msg(lambda m: answer.set_result(m['content']['data']))\n"
                            "print('asleep', asked.comm_id)\n"
                            "await asyncio.wait_for(answer, 15)")  # fmt: skip
    [comm_id] = ipython.request("comm_info_request", {}, "control")["comms"]
    ipython.send("comm_msg", {"comm_id": comm_id, "data": {"b": 1}})
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"


def test_a_task_continues_after_its_cell_and_its_output_belongs_to_that_cell(ipython):
    """The cells use the kernel's event loop."""
    code = (
        "import asyncio\nfree = asyncio.Event()\nasync def late(): await free.wait(); print('late')"
    )
    msg_id = ipython.execute(f"{code}\ntask = asyncio.create_task(late())")
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"
    assert ipython.receive_until_idle(msg_id)[-1] == IDLE
    setting = ipython.execute("free.set()")
    ipython.receive_reply(setting)
    # The output, and busy, input and idle of the second cell.
    messages = [ipython.receive_publication() for _ in range(4)]
    [late] = [message for message in messages if message["msg_type"] == "stream"]
    assert late["parent_header"]["msg_id"] == msg_id
    assert run_cell(ipython, "asyncio.get_running_loop().is_running()").result == "True"
    failed = run_cell(ipython, "asyncio.run(late())").reply
    assert "running event loop" in failed["evalue"]


def test_common_idioms_of_libraries_and_notebooks_work(ipython):
    expected = {
        "get_ipython().kernel.shell is get_ipython()": "True",
        "'IPKernelApp' in get_ipython().config": "True",  # tqdm.auto then assumes a notebook
        "type(get_ipython()).__name__": "'ZMQInteractiveShell'",
        "__name__": "'__main__'",
        "get_ipython().kernel.get_parent()['header']['msg_type']": "'execute_request'",
        "get_ipython().parent_header['header']['msg_type']": "'execute_request'",
        "import sys; isinstance(sys.stdout, __import__('ipykernel').iostream.OutStream)": "True",
        "sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.writable()": "('UTF-8', False, True)",
    }
    assert {code: run_cell(ipython, code).result for code in expected} == expected


# --- features of ipykernel's app ------------------------------------------------------------------


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
def test_features_that_need_the_app_work(code, ipython):
    cell = run_cell(ipython, code)
    assert (cell.reply["status"], cell.text("stderr")) == ("ok", "")


@defect("MPLBACKEND is not set before user code runs")
def test_plots_are_inline(ipython):
    """A figure is shown at the end of its cell, without a magic."""
    cell = run_cell(ipython, "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert "image/png" in cell.data("display_data")[0]


@defect("the profile's config and startup files are not read")
def test_the_profile_is_loaded(context, tmp_path, start):
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
def test_modules_of_the_current_directory_can_be_imported(ipython, tmp_path):
    """F8: also after ``%cd``, because '' is in ``sys.path``."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "user_module.py").write_text("value = 5")
    run_cell(ipython, f"%cd {tmp_path}/elsewhere")
    assert run_cell(ipython, "import user_module; user_module.value").result == "5"


def test_settings_on_the_command_line_apply(context, tmp_path, start):
    words = ("--HistoryManager.hist_file=:memory:", "--InteractiveShell.xmode=Plain")
    client = start_kernel_class(IPYTHON, context, tmp_path, start, *words)
    ip = "get_ipython()"
    shown = run_cell(client, f"{ip}.history_manager.hist_file, {ip}.InteractiveTB.mode").result
    assert shown == "(':memory:', 'Plain')"


# --- input, interrupts, exit ----------------------------------------------------------------------


def test_the_debug_magic_prompts_on_stdin(ipython):
    run_cell(ipython, "def fail(wanted): return wanted / 0\nfail(5)")
    cell = run_cell(ipython, "%debug", ["p wanted + 1", "q"])
    assert cell.reply["status"] == "ok"
    assert "6" in cell.text().split()


def test_an_interrupt_ends_an_input_request(ipython):
    """K8."""
    for code in ("input('name? ')", "import getpass; getpass.getpass('pin? ')"):
        msg_id = ipython.execute(code, allow_stdin=True)
        ipython.receive_on("stdin")
        os.killpg(ipython.process.pid, signal.SIGINT)
        assert finish_cell(ipython, msg_id).reply["ename"] == "KeyboardInterrupt"


@defect("pdb.Pdb catches it and prompts again; ipykernel's app installs IPython's InterruptiblePdb")
def test_an_interrupt_ends_the_debugger(ipython):
    """K8."""
    msg_id = ipython.execute("import pdb; pdb.set_trace()", allow_stdin=True)
    ipython.receive_on("stdin")
    os.killpg(ipython.process.pid, signal.SIGINT)
    poller = zmq.Poller()
    for channel in (ipython.shell, ipython.stdin):
        poller.register(channel, zmq.POLLIN)
    answered = [channel for channel, _ in poller.poll(DEADLINE * SECOND)]
    assert answered == [ipython.shell], "another input request instead of a reply"
    assert finish_cell(ipython, msg_id).reply["status"] in ("ok", "error")


def test_an_interrupt_ends_every_kind_of_cell(ipython):
    """K8: the next cell is not affected."""
    run_cell(ipython, "import asyncio, subprocess, threading, time")
    ends = {
        "def deep(n): deep(n - 1) if n else time.sleep(60)\n{asleep}; deep(50)": "error",
        "{asleep}; subprocess.run(['sleep', '60'])": "error",
        "!echo asleep; sleep 60": "ok",  # IPython forwards the interrupt to the child
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


def test_a_signal_handler_of_the_user_is_called_until_it_is_replaced(ipython):
    """K8: the user restores the kernel's handler, and interrupts work as before."""
    # Short sleeps: after a signal just before a long sleep, no Python handler runs until its end.
    sleep = "print('asleep')\nwhile True: time.sleep(0.01)"
    own = "import signal, time; before = signal.signal(signal.SIGINT, lambda *_: 1 / 0)"
    for first, ename in [(own, "ZeroDivisionError"), ("", "KeyboardInterrupt")]:
        msg_id = begin_cell(ipython, f"{first}\n{sleep}")
        os.killpg(ipython.process.pid, signal.SIGINT)
        assert finish_cell(ipython, msg_id).reply["ename"] == ename
        run_cell(ipython, "signal.signal(signal.SIGINT, before);")


def test_a_signal_handler_that_raises_does_not_split_a_message(ipython):
    # pyzmq runs handlers in every send: half a message would stay, and damage the next message.
    cell = run_cell(
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
    assert cell.reply["status"] == "ok"
    assert cell.text() == "rings\n" * 100
    numbers = [int(bundle["text/plain"]) for bundle in cell.data("display_data")]
    assert all(after in (before + 1, 0) for before, after in itertools.pairwise(numbers))
    ipython.expect_nothing_unread()


@pytest.mark.parametrize("how", ["", ", flush=True"])
def test_a_lone_surrogate_is_escaped(how, ipython):
    """K7: the output before and after it is not affected."""
    cell = run_cell(ipython, f"print('before'{how})\nprint('\\ud83d'{how})\nprint('\u00e9'{how})")
    assert cell.reply["status"] == "ok"
    assert cell.text() == "before\n\\ud83d\n\u00e9\n"
    assert run_cell(ipython, "print('after')").text() == "after\n"


def test_a_signal_handler_that_raises_does_not_lose_or_repeat_lines(ipython):
    """A line whose print has returned is published once."""
    cell = run_cell(
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
    assert cell.reply["status"] == "ok"
    text, _, printed = cell.text().partition("printed")
    numbers = [int(number) for number in re.findall(r"<(\d+)>", text)]
    assert set(json.loads(printed)) <= set(numbers)
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("code", ["exit", "quit()"])
def test_exit_ends_the_kernel(code, ipython):
    """The payload asks the frontend whether to keep the kernel; the kernel exits by itself."""
    cell = run_cell(ipython, code)
    assert cell.reply["payload"] == [{"source": "ask_exit", "keepkernel": False}]
    assert ipython.process.wait_for_end(DEADLINE) == (0, "")


def test_history_outlives_the_kernel(ipython, context, tmp_path, start):
    run_cell(ipython, "remembered = 5")
    ipython.shut_down()
    assert ipython.process.wait_for_end()[0] == 0
    again = start_kernel_class(IPYTHON, context, tmp_path, start)
    tail = {"hist_access_type": "tail", "n": 1, "output": False, "raw": True}
    [[_, line, text]] = again.request("history_request", tail)["history"]
    assert (line, text) == (1, "remembered = 5")


def test_other_requests_are_answered(ipython):
    run_cell(ipython, "alpha = 5")
    completed = ipython.request("complete_request", {"code": "alp", "cursor_pos": 3})
    assert "alpha" in completed["matches"]
    inspected = ipython.request("inspect_request", {"code": "alpha", "cursor_pos": 2})
    assert "int" in inspected["data"]["text/plain"]
    for code, status in [("a = [1,", "incomplete"), ("a = 1", "complete"), ("a = )", "invalid")]:
        assert ipython.request("is_complete_request", {"code": code})["status"] == status
    cell = run_cell(ipython, "1", user_expressions={"b": "alpha + 1", "c": "nothing"})
    expressions = cell.reply["user_expressions"]
    assert expressions["b"]["data"] == {"text/plain": "6"}
    assert expressions["c"]["ename"] == "NameError"
    ipython.expect_nothing_unread()


def test_a_debug_request_is_answered_with_an_error(ipython):
    """K11: no debugger is advertised, but a client can send the request."""
    content = {"type": "request", "seq": 1, "command": "initialize", "arguments": {}}
    assert ipython.request("debug_request", content, "control")["status"] == "error"
