"""A storage server as a process of its own: `python -m tests.storage_node.serve DEVICE_DIRECTORY ADDRESS`.

Says "ready" on its standard output when it serves; ends in order on SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import trio

from storage_node.server import StorageServer
from storage_node.sockets import listen
from tests.storage_node.wire import KEY, open_device


async def main(*arguments: str) -> None:
    """Serve until SIGTERM."""
    path, address = arguments
    device = open_device(Path(path))
    server = StorageServer({"sda": device}, KEY)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [listen(address)])
            print("ready", flush=True)
            async for _ in signals:
                break
            server.stop()
    device.close()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
