"""Restart a kernel and run all cells with the same client; no output is lost.

Run it: ``python examples/restart_and_run.py [KERNEL [TIMES]]``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from echokernel.client import AsyncWelcomeClient, AsyncWelcomeKernelManager

CELLS = ("'one'", "'two'", "'three'")


async def main(kernel_name: str = "echo-handshake", times: str = "3") -> None:
    manager = AsyncWelcomeKernelManager(kernel_name=kernel_name)
    await manager.start_kernel()
    try:
        client: Any = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=30)
        await run_all(client)
        for _ in range(int(times)):
            await manager.restart_kernel(now=True)
            # Late messages of the old kernel do not end this wait.
            await client.wait_for_ready(timeout=30)
            await run_all(client)
        client.stop_channels()
    finally:
        await manager.shutdown_kernel(now=True)


async def run_all(client: AsyncWelcomeClient) -> None:
    """Execute every cell; print the number of its messages, and its output."""
    for cell in CELLS:
        messages: list[dict[str, Any]] = []
        await client.execute_interactive(
            cell, output_hook=messages.append, allow_stdin=False, timeout=30
        )
        print(f"{cell}: {len(messages)} messages, {''.join(map(text, messages))}", flush=True)


def text(message: dict[str, Any]) -> str:
    """Return the text of an output; an empty text for other messages."""
    content = message["content"]
    if message["msg_type"] == "execute_result":
        return str(content["data"]["text/plain"])
    return str(content["text"]) if message["msg_type"] == "stream" else ""


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
