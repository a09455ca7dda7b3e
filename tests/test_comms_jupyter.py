"""Comms under the programs that people use: jupyter_server, and IPython with ipywidgets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import urllib.request
import uuid

import pytest
from cells import run
from cells import serve as serve_cells
from comm_peers import HERE, KERNEL, CommClient
from conftest import handshake_metadata
from harness import DEADLINE, wait_until
from tornado.websocket import websocket_connect

TOKEN = "the-token-of-the-tests"


# --- jupyter_server -----------------------------------------------------------------------------


class Server:
    """jupyter_server in a process of its own; ``options`` are for its command line."""

    def __init__(self, folder, *options):
        pytest.importorskip("jupyter_server")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root",
             f"--port={self.port}", "--port-retries=0", f"--IdentityProvider.token={TOKEN}",
             f"--ServerApp.root_dir={folder}", *options],
            env={**os.environ, "JUPYTER_CONFIG_DIR": str(folder), "JUPYTER_NO_CONFIG": "1",
                 "JUPYTER_DATA_DIR": str(folder / "jupyter"),
                 "JUPYTER_RUNTIME_DIR": str(folder / "server")},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._answers, "the server answers", timeout=60)

    def _answers(self):
        try:
            return self.call("GET", "api/status")
        except OSError:
            assert self.process.poll() is None, "the server has ended"
            return None

    def call(self, method, path, body=None):
        return json.loads(self.text(path, method, body) or "true")

    def text(self, path, method="GET", body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"token {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            return response.read().decode()

    def end(self):
        self.process.terminate()
        self.process.wait(DEADLINE)


class Page:
    """One browser's page on a kernel: a websocket."""

    def __init__(self, server, kernel_id, session):
        self._address = (
            f"ws://127.0.0.1:{server.port}/api/kernels/{kernel_id}/channels"
            f"?session_id={session}&token={TOKEN}"
        )
        self._session = session

    async def __aenter__(self):
        self._socket = await websocket_connect(self._address)
        return self

    async def __aexit__(self, *_):
        self._socket.close()
        while await self._socket.read_message() is not None:
            pass  # until it is closed

    async def send(self, msg_type, content, channel="shell"):
        header = {"msg_id": uuid.uuid4().hex, "msg_type": msg_type, "session": self._session,
                  "username": "", "date": "2026-11-21T00:00:00Z", "version": "5.4"}  # fmt: skip
        text = json.dumps({"header": header, "parent_header": {}, "metadata": {},
                           "content": content, "channel": channel, "buffers": []})  # fmt: skip
        await self._socket.write_message(text)
        return header["msg_id"]

    async def next(self, wanted):
        while True:
            text = await asyncio.wait_for(self._socket.read_message(), DEADLINE)
            assert text is not None, "the websocket is closed"
            got = json.loads(text)
            if wanted(got):
                return got

    async def ask(self, comm_id, method, params=()):
        request = {"jsonrpc": "2.0", "id": uuid.uuid4().hex, "method": method}
        data = {**request, "params": list(params)}
        await self.send("comm_msg", {"comm_id": comm_id, "data": data})
        return request["id"]

    async def answer_to(self, id_):
        got = await self.next(lambda m: m["content"].get("data", {}).get("id") == id_)
        return got["content"]["data"]["result"]

    async def comms(self):
        msg_id = await self.send("comm_info_request", {})
        got = await self.next(lambda m: m["parent_header"].get("msg_id") == msg_id
                              and m["msg_type"] == "comm_info_reply")  # fmt: skip
        return set(got["content"]["comms"])

    async def run(self, code):
        msg_id = await self.send("execute_request", {"code": code, "silent": False})
        await self.next(lambda m: m["parent_header"].get("msg_id") == msg_id
                        and m["msg_type"] == "execute_reply")  # fmt: skip


async def test_a_browser_refresh_and_the_end(tmp_path, kernelspecs, monkeypatch, runtime_dir):
    """C2: a refresh closes nothing, since the server stays subscribed; C6: shutdown ends all."""
    monkeypatch.setenv("PYTHONPATH", HERE)
    argv = [sys.executable, "-m", "echokernel", "--kernel-class", KERNEL,
            "--comm-grace-period=0.3", "-f", "{connection_file}"]  # fmt: skip
    name = kernelspecs(
        "comms", argv=argv, metadata=handshake_metadata(), kernel_protocol_version="5.6"
    )
    server = Server(tmp_path)
    try:
        kernel_id = server.call("POST", "api/kernels", {"name": name})["id"]
        session = uuid.uuid4().hex
        async with Page(server, kernel_id, session) as page:
            await page.send("comm_open", {"comm_id": "one", "target_name": "echo", "data": {}})
            asking = await page.ask("one", "ask", [5])
            got = await page.next(lambda m: m["content"].get("data", {}).get("method") == "answer")
            asked = got["content"]["data"]["id"]
            # Much longer than the grace period, and it goes on while there is no page.
            await page.send("execute_request", {"code": "sleep 1", "silent": False})
        async with Page(server, kernel_id, session) as page:
            await page.run("say the sleep is over")
            assert await page.comms() == {"one"}
            answer = {"jsonrpc": "2.0", "id": asked, "result": 6}
            await page.send("comm_msg", {"comm_id": "one", "data": answer})
            assert await page.answer_to(asking) == 6
            noted = tmp_path / "noted"
            await page.run("open two")
            await page.run(f"ask_until_the_end {noted}")
        server.call("DELETE", f"api/kernels/{kernel_id}")
        assert noted.read_text() == "CommDisconnected: the kernel shuts down"
    finally:
        server.end()


# --- IPython and ipywidgets ---------------------------------------------------------------------


def test_widgets_survive_a_refresh(context, tmp_path, start):
    """C3: all clients leave, and one comes back: its widgets are there, other comms are not."""
    client = serve_cells("ipykernel.ipkernel:IPythonKernel", context, tmp_path, start,
                         "--comm-grace-period=0.3")  # fmt: skip
    run(client, "import comm; plain = comm.create_comm(target_name='plain', comm_id='plain')")
    ran = run(client, "import ipywidgets\nslider = ipywidgets.IntSlider()\n"
                      "slider.observe(lambda new: print(new.new), 'value')\nslider")  # fmt: skip
    [view] = ran.data("execute_result")
    model = view["application/vnd.jupyter.widget-view+json"]["model_id"]
    client.close()
    control = CommClient(context, client.connection, (b"kernel.",))
    wait_until(lambda: "plain" not in control.comms(), "what is no widget is closed")
    second = CommClient(context, client.connection)
    assert model in second.comms()
    second.close()
    first = CommClient(context, client.connection)
    update = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    msg_id = first.tell(model, update)
    assert "7\n" in [got["content"].get("text") for got in first.idle(msg_id)]
    first.close()
    control.close()


def test_a_request_in_a_cell_of_ipython(context, tmp_path, start):
    """C6: ``await`` in a cell, and a widget that is moved meanwhile."""
    client = serve_cells("ipykernel.ipkernel:IPythonKernel", context, tmp_path, start)
    client.close()
    client = CommClient(context, client.connection)
    code = ("import comm\nview = comm.create_comm(target_name='view', comm_id='view')\n"
            "print('got', await view.request('size', [1], timeout=60))")  # fmt: skip
    msg_id = client.execute(code)
    client.answer("view", client.asked("view")["id"], [3, 4])
    said = "".join(got["content"].get("text", "") for got in client.idle(msg_id))
    assert "got [3, 4]" in said
    client.close()
