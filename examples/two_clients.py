"""Two clients on one kernel: each hears what the other does, from its first message on.

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
        second = join(manager)  # while the first is there: it is welcomed all the same
        request = first.execute("'said by the first'")
        for name, client in (("first", first), ("second", second)):
            for what in publications(client, request):
                print(f"the {name} client hears {what}")
        first.stop_channels()
        second.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)


def join(manager: WelcomeKernelManager) -> BlockingWelcomeClient:
    """Return a client that misses nothing from here on."""
    client: BlockingWelcomeClient = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    return client


def publications(client: BlockingWelcomeClient, request: str) -> list[str]:
    """Return what is published for a request, from its busy to its idle."""
    heard = []
    while heard[-1:] != ["idle"]:
        message = client.get_iopub_msg(timeout=30)
        if message["parent_header"].get("msg_id") == request:
            heard.append(message["content"].get("execution_state") or message["msg_type"])
    return heard


if __name__ == "__main__":
    main(*sys.argv[1:] or ["echo-handshake"])
