"""The control sockets: what a running process says of itself, and what it can be told.

Problem: `ringstead status` wants the updater's backlog and the supervisor's children, tests and operators want to stop one
service and start it again, and none of this belongs on a port that the network reaches.

Idea: each process listens at a Unix socket in the cluster's `run` folder, for its owner only. One connection carries one
request and one answer, each a line of JSON. The request names an operation; the process gives a function for each.

An operation that refuses raises `Refused`, whose text is what the operator reads.

Invariants: whatever is sent, the process answers with a line or closes; a client waits no longer than it said.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog
import trio

from ringstead.errors import ClusterDown
from ringstead.processes.sockets import listen, reachable

REQUEST_BYTES_MAX: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 16 * 1024**2
REQUEST_TIMEOUT_S: Final = 10.0
CONNECTIONS_MAX: Final = 64

Answer: TypeAlias = dict[str, Any]
Operation: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Answer]]

log = structlog.get_logger("ringstead.control")


class Refused(Exception):
    """The operator's: what was asked makes no sense, or cannot be done now. The message says why, and what to do."""


def control_path(socket_dir: Path, name: str) -> Path:
    """Where the process of that name listens."""
    return socket_dir / f"{name}.control"


async def serve_control(
    path: Path,
    operations: Mapping[str, Operation],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer at `path` until cancelled."""
    listener = trio.socket.from_stdlib_socket(listen(f"unix:{path}"))
    limit = trio.CapacityLimiter(CONNECTIONS_MAX)
    with listener:
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                connection, _ = await listener.accept()
                nursery.start_soon(_serve_one, trio.SocketStream(connection), operations, limit)


async def _serve_one(
    stream: trio.SocketStream, operations: Mapping[str, Operation], limit: trio.CapacityLimiter
) -> None:
    async with stream, limit:
        try:
            with trio.fail_after(REQUEST_TIMEOUT_S):
                line = await _receive_line(stream, REQUEST_BYTES_MAX)
            answer = await _answer(line, operations)
            with trio.fail_after(REQUEST_TIMEOUT_S):
                await stream.send_all(json.dumps(answer).encode() + b"\n")
        except (trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
            log.debug("control connection broke", error=str(error))


async def _answer(line: bytes, operations: Mapping[str, Operation]) -> Answer:
    try:
        request = json.loads(line)
    except ValueError:
        return {"error": "not JSON"}
    operation = operations.get(request.get("do", "")) if isinstance(request, dict) else None
    if operation is None:
        return {"error": f"no such operation; there are {', '.join(sorted(operations))}"}
    try:
        return await operation(request)
    except Refused as error:
        return {"error": str(error)}
    except (KeyError, TypeError, ValueError) as error:
        return {"error": f"bad request: {error!r}"}
    except Exception as error:  # a defect in one operation is no reason for the process to end
        log.exception("an operation failed unforeseen", operation=request.get("do"))
        return {"error": f"a defect: {type(error).__name__}: {error}"}


async def _receive_line(stream: trio.SocketStream, bytes_max: int) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        piece = await stream.receive_some(bytes_max)
        received += piece
        if not piece:
            break
        if len(received) > bytes_max:
            raise ValueError("the request is too long")
    return received


def ask(path: Path, operation: str, timeout_s: float = 10.0, **arguments: Any) -> Answer:
    """Ask the process that listens at `path`. Blocks. Raises ClusterDown when none answers in time."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(reachable(path))
            connection.sendall(json.dumps({"do": operation, **arguments}).encode() + b"\n")
            received = bytearray()
            while not received.endswith(b"\n"):
                piece = connection.recv(1 << 20)
                received += piece
                if not piece or len(received) > ANSWER_BYTES_MAX:
                    break
        answer = json.loads(received)
    except (OSError, ValueError) as error:
        raise ClusterDown(f"{path}: no answer ({getattr(error, 'strerror', None) or error})") from error
    if not isinstance(answer, dict):
        raise ClusterDown(f"{path}: the answer makes no sense")
    return answer
