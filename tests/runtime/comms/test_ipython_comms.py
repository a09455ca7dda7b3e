"""Comms under IPython's kernel, unchanged: ipywidgets, and a request in a cell."""

from __future__ import annotations

from support.cells import run_cell, start_kernel_class
from support.comm_clients import CommClient
from support.waits import poll_until


def test_widgets_survive_a_refresh(context, tmp_path, start):
    """C3: all clients leave, and one comes back: its widgets are there, other comms are not."""
    client = start_kernel_class("ipykernel.ipkernel:IPythonKernel", context, tmp_path, start,
                         "--comm-grace-period=0.3")  # fmt: skip
    run_cell(client, "import comm; plain = comm.create_comm(target_name='plain', comm_id='plain')")
    ran = run_cell(client, "import ipywidgets\nslider = ipywidgets.IntSlider()\n"
                      "slider.observe(lambda new: print(new.new), 'value')\nslider")  # fmt: skip
    [view] = ran.data("execute_result")
    model = view["application/vnd.jupyter.widget-view+json"]["model_id"]
    client.close()
    control = CommClient(context, client.connection, (b"kernel.",))
    poll_until(lambda: "plain" not in control.comms(), "what is no widget is closed")
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
    client = start_kernel_class("ipykernel.ipkernel:IPythonKernel", context, tmp_path, start)
    client.close()
    client = CommClient(context, client.connection)
    code = ("import comm\nview = comm.create_comm(target_name='view', comm_id='view')\n"
            "print('got', await view.request('size', [1], timeout=60))")  # fmt: skip
    msg_id = client.execute(code)
    client.answer("view", client.asked("view")["id"], [3, 4])
    said = "".join(got["content"].get("text", "") for got in client.idle(msg_id))
    assert "got [3, 4]" in said
    client.close()
