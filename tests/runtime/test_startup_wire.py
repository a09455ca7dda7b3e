"""Malformed startup files (F3), connection files (F5), and a kernel without a startup file."""

import json
import os
import signal

import pytest
from support.kernel_processes import KEY, ends_with_one_line, mode_of, start_classic
from support.ports import free_port

from echokernel.conformance.raw_client import RawClient
from echokernel.conformance.raw_messages import CHANNELS

GOOD = {"key": KEY, "ip": "127.0.0.1"}
REGISTRATION = {**GOOD, "registration_port": 5555}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"\0" * 100, "not JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"key": ' + b"9" * 5000 + b"}", "JSON"),
        ([GOOD], "a list"),
        ("text", "a string"),
        (None, "null"),
        ({"ip": "127.0.0.1"}, "key"),
        ({"key": None}, "key"),
        ({"key": [KEY]}, "key"),
        ({**GOOD, "transport": "carrier-pigeon"}, "transport"),
        ({**GOOD, "transport": 1}, "transport"),
        ({**GOOD, "signature_scheme": "hmac-nonsense"}, "signature_scheme"),
        ({**GOOD, "signature_scheme": "sha256"}, "signature_scheme"),
        ({**GOOD, "signature_scheme": "hmac-shake_128"}, "signature_scheme"),
        ({**GOOD, "signature_scheme": None}, "signature_scheme"),
        ({**GOOD, "ip": 127}, "ip"),
        ({**GOOD, "ip": ""}, "ip"),
        ({**GOOD, "ip": "a\0b"}, "ip"),
        ({**GOOD, "shell_port": "5555"}, "shell_port"),
        ({**GOOD, "shell_port": True}, "shell_port"),
        ({**GOOD, "shell_port": 1.5}, "shell_port"),
        ({**GOOD, "hb_port": 65536}, "hb_port"),
        ({**GOOD, "hb_port": -1}, "hb_port"),
        ({**GOOD, "shell_port": 5555, "hb_port": 5555}, "hb_port"),
        ({**GOOD, "curve_publickey": "x" * 40}, "curve_secretkey"),
        ({**GOOD, "curve_publickey": "short", "curve_secretkey": KEY}, "curve_publickey"),
        ({"key": KEY, "registration_port": 5555}, "ip"),
        *(
            ({**GOOD, "registration_port": port}, "registration_port")
            for port in (
                0,
                65536,
                -1,
                None,
                "",
                "x",
                "1.5",
                "0x10",
                " 5555",
                "\u0665\u0665",
                1.0,
                True,
                [],
            )
        ),
        ({**REGISTRATION, "registration_ip": 1}, "registration_ip"),
        ({**REGISTRATION, "kernel_id": 1}, "kernel_id"),
        ({**REGISTRATION, "connection_file": 1}, "connection_file"),
        ({**REGISTRATION, "preferred_ports": []}, "preferred_ports"),
        ({**REGISTRATION, "preferred_ports": {"shell_port": "x"}}, "preferred_ports.shell_port"),
    ],
)
def test_a_malformed_startup_file_is_refused_with_one_line(text, field, tmp_path, start):
    """F3: the line names the file, the field and the fault; status 2."""
    path = tmp_path / "startup.json"
    content = text if isinstance(text, bytes) else json.dumps(text).encode()
    path.write_bytes(content)
    ends_with_one_line(start(path), 2, str(path), field)
    assert path.read_bytes() == content, "the kernel changed a file that the user wrote"


def test_an_unreadable_startup_file_is_refused_with_one_line(tmp_path, start):
    """F3: a missing file, a folder, an endless file."""
    ends_with_one_line(start(tmp_path / "nowhere.json"), 2, "nowhere.json", "No such file")
    ends_with_one_line(start(tmp_path), 2, str(tmp_path), "directory")
    ends_with_one_line(start("/dev/zero"), 2, "/dev/zero", "larger")


def test_ports_that_the_launcher_chose_are_bound(context, tmp_path, start):
    """F5: a connection file with five ports is not changed."""
    ports = {f"{channel}_port": free_port() for channel in CHANNELS}
    connection = start_classic(tmp_path, start, ip="127.0.0.1", transport="tcp", **ports)
    assert connection == {"key": KEY, "ip": "127.0.0.1", "transport": "tcp", **ports}
    client = RawClient(context, connection)
    assert client.request("connect_request", {})["shell_port"] == ports["shell_port"]
    client.expect_nothing_unread()
    client.close()


def test_ports_zero_are_replaced_by_free_ports(context, tmp_path, start):
    """F5: the kernel binds free ports and rewrites the file with all its other keys."""
    connection = start_classic(tmp_path, start, kernel_name="me", jupyter_session="s", shell_port=0)
    assert (connection["kernel_name"], connection["jupyter_session"]) == ("me", "s")
    assert mode_of(tmp_path / "connection.json") == 0o600
    client = RawClient(context, connection)
    client.expect_nothing_unread()
    client.shut_down()
    client.close()
    assert (tmp_path / "connection.json").exists(), "the kernel removed the launcher's file"


def test_a_port_that_is_in_use_ends_the_kernel_with_one_line(tmp_path, start):
    """F5: the port race of a classic start."""
    first = start_classic(tmp_path, start)
    path = tmp_path / "second.json"
    path.write_text(json.dumps(first))
    ends_with_one_line(start(path), 1, "shell", str(first["shell_port"]), "in use")


def test_a_bare_name_is_looked_up_in_the_runtime_directory(runtime_dir, start):
    """F5: as ipykernel does."""
    runtime_dir.mkdir()
    (runtime_dir / "bare-name-of-a-test.json").write_text("{}")
    process = start("bare-name-of-a-test.json")
    ends_with_one_line(process, 2, str(runtime_dir / "bare-name-of-a-test.json"), "key")
    (runtime_dir / "bare-name-of-a-test.json").unlink()


def test_without_a_startup_file_the_kernel_writes_and_removes_its_own(context, start, runtime_dir):
    """F5, H6: the kernel prints the path of the file, and how to attach."""
    process = start(None)
    lines = [process.popen.stdout.readline() for _ in range(3)]
    path = runtime_dir / f"kernel-{process.pid}.json"
    assert lines[0] == f"Connection file: {path}\n"
    assert lines[1] == f"To attach: jupyter console --existing {path.name}\n"
    assert mode_of(path) == 0o600
    client = RawClient(context, json.loads(path.read_text()))
    msg_id = client.execute("hello")
    assert ("stream", {"name": "stdout", "text": "hello"}) in client.receive_until_idle(msg_id)
    client.close()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait_for_end()[0] == -signal.SIGTERM
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--kernel-class", "raises:Kernel"], "NameError"),
        (["--kernel-class", "no.such:Kernel"], "no.such"),
        (["--kernel-class", "echokernel.kernel:Nothing"], "Nothing"),
        (["--kernel-class", "echokernel.kernel:text"], "not a class"),
    ],
)
def test_a_kernel_class_that_cannot_be_loaded_ends_the_kernel_with_one_line(
    arguments, word, start, tmp_path
):
    (tmp_path / "raises.py").write_text("no_such_name")
    ends_with_one_line(start(None, *arguments, PYTHONPATH=str(tmp_path)), 1, word)


@pytest.mark.parametrize(
    "arguments", [["--port-range", "9-1"], ["--handshake-timeout", "-1"], ["x"]]
)
def test_a_wrong_command_line_is_an_error_without_a_traceback(arguments, start):
    status, stderr = start(None, *arguments).wait_for_end()
    assert status == 2
    assert "error:" in stderr
    assert "Traceback" not in stderr
