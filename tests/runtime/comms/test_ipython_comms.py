"""Comms under IPython's kernel class: ipywidgets, and a request in a cell (C3, C6)."""

from __future__ import annotations

from support.cells import run_cell, start_kernel_class
from support.comm_clients import CommClient
from support.waits import poll_until


def test_widgets_survive_a_refresh(context, tmp_path, start):
    """C3: after all clients disconnect and one reconnects, widgets exist and other comms do not."""
    client = start_kernel_class("ipykernel.ipkernel:IPythonKernel", context, tmp_path, start,
                         "--comm-grace-period=0.3")  # fmt: skip
    run_cell(client, "import comm; plain = comm.create_comm(target_name='plain', comm_id='plain')")
    cell = run_cell(client, "import ipywidgets\nslider = ipywidgets.IntSlider()\n"
                      "slider.observe(lambda new: print(new.new), 'value')\nslider")  # fmt: skip
    [view] = cell.data("execute_result")
    model = view["application/vnd.jupyter.widget-view+json"]["model_id"]
    client.close()
    control = CommClient(context, client.connection, (b"kernel.",))
    poll_until(lambda: "plain" not in control.comms(), "the comm without a widget is closed")
    second = CommClient(context, client.connection)
    assert model in second.comms()
    second.close()
    first = CommClient(context, client.connection)
    update = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    msg_id = first.send_data(model, update)
    assert "7\n" in [message["content"].get("text") for message in first.idle(msg_id)]
    first.close()
    control.close()


def test_an_ipython_cell_awaits_a_request(context, tmp_path, start):
    """C6: the response arrives while the cell awaits it."""
    client = start_kernel_class("ipykernel.ipkernel:IPythonKernel", context, tmp_path, start)
    client.close()
    client = CommClient(context, client.connection)
    code = ("import comm\nview = comm.create_comm(target_name='view', comm_id='view')\n"
            "print('got', await view.request('size', [1], timeout=60))")  # fmt: skip
    msg_id = client.execute(code)
    client.answer("view", client.asked("view")["id"], [3, 4])
    text = "".join(message["content"].get("text", "") for message in client.idle(msg_id))
    assert "got [3, 4]" in text
    client.close()
