"""Two clients on one kernel: each receives the messages of the other, from the first message on.

Run it: ``python examples/two_clients.py [KERNEL]``; by default the kernel is echo-handshake.
"""

from __future__ import annotations

import sys

from echokernel.client import BlockingWelcomeClient, WelcomeKernelManager


def main(kernel_name: str) -> None:
    manager = WelcomeKernelManager(kernel_name=kernel_name)
    manager.start_kernel()
    try:
        first = join(manager)
        second = join(manager)  # a second client is welcomed, too
        request = first.execute("'sent by the first client'")
        for name, client in (("first", first), ("second", second)):
            for msg_type in publications(client, request):
                print(f"the {name} client receives {msg_type}")
        first.stop_channels()
        second.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)


def join(manager: WelcomeKernelManager) -> BlockingWelcomeClient:
    """Return a client that receives every message from now on."""
    client: BlockingWelcomeClient = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    return client


def publications(client: BlockingWelcomeClient, request: str) -> list[str]:
    """Return the types of the publications for a request, busy to idle."""
    types = []
    while types[-1:] != ["idle"]:
        message = client.get_iopub_msg(timeout=30)
        if message["parent_header"].get("msg_id") == request:
            types.append(message["content"].get("execution_state") or message["msg_type"])
    return types


if __name__ == "__main__":
    main(*sys.argv[1:] or ["echo-handshake"])
