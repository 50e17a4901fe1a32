"""Addresses, listening sockets, and transports over them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from storage_node.sockets import Address, connect, listen, parse_address
from storage_node.transport import SocketTransport, TlsTransport, Transport, receive, receive_into, send_all, send_frame
from tests.storage_node.wire import free_port_address, tls_contexts


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/s.sock", Address("/run/s.sock")),
        ("10.0.0.1:6200", Address("", "10.0.0.1", 6200)),
        ("[fd00::1]:6200", Address("", "fd00::1", 6200)),
    ],
)
def test_addresses_are_read(text: str, address: Address) -> None:
    """The three forms of an address are understood."""
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "unix:", "host", "1.2.3.4:", "1.2.3.4:http", "1.2.3.4:70000"])
def test_bad_addresses_are_refused(text: str) -> None:
    """What is no address is a ValueError that says what one is."""
    with pytest.raises(ValueError, match="address"):
        parse_address(text)


async def meet(listener: socket.socket, address: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection."""
    near = await connect(address)
    await trio.lowlevel.wait_readable(listener)
    far, _ = listener.accept()
    far.setblocking(False)
    return near, far


async def test_a_unix_socket_may_have_a_long_path(tmp_path: Path) -> None:
    """Data directories deep down in the tree work, although a socket's name has 107 bytes at most."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    address = f"unix:{directory / 's.sock'}"
    with listen(address) as listener:
        near, far = await meet(listener, address)
        near.close()
        far.close()


async def test_a_dead_servers_socket_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    """What a killed server left does not keep the next from starting; two servers do not share a socket."""
    address = f"unix:{tmp_path / 's.sock'}"
    with listen(address), pytest.raises(OSError, match="another server"):
        listen(address)
    with pytest.raises(ConnectionRefusedError):
        await connect(address)
    with listen(address) as listener:
        near, far = await meet(listener, address)
        near.close()
        far.close()


async def test_nobody_listens(tmp_path: Path) -> None:
    """Connecting to nothing is an OSError at once, over either kind of socket."""
    with pytest.raises(OSError, match="No such file"):
        await connect(f"unix:{tmp_path / 'none'}")
    with pytest.raises(ConnectionRefusedError):
        await connect(free_port_address())


@asynccontextmanager
async def pair(kind: str, tmp_path: Path) -> AsyncIterator[tuple[Transport, Transport]]:
    """Two connected transports."""
    address = f"unix:{tmp_path / 's'}" if kind == "unix" else free_port_address()
    with listen(address) as listener:
        near_socket, far_socket = await meet(listener, address)
    near: Transport
    far: Transport
    if kind == "tls":
        server_context, client_context = tls_contexts(tmp_path)
        near = near_tls = TlsTransport(near_socket, client_context, "127.0.0.1")
        far = far_tls = TlsTransport(far_socket, server_context, None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near_tls.handshake)
            nursery.start_soon(far_tls.handshake)
    else:
        near, far = SocketTransport(near_socket), SocketTransport(far_socket)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
async def test_bytes_arrive_as_they_were_sent(kind: str, tmp_path: Path) -> None:
    """Megabytes arrive unchanged, by either way of receiving, while the sender waits for the receiver."""
    data = bytes(range(256)) * 8192
    async with pair(kind, tmp_path) as (near, far), trio.open_nursery() as nursery:

        async def send() -> None:
            await send_all(near, data)
            await send_frame(near, b"header", memoryview(data))

        nursery.start_soon(send)
        got = b""
        while len(got) < len(data):
            got += await receive(far, len(data) - len(got))
        rest = bytearray(len(data) + 6)
        # TLS may have given more than was asked for by way of receive().
        rest[: len(got) - len(data)] = got[len(data) :]
        have = len(got) - len(data)
        while have < len(rest):
            view = memoryview(rest)
            have += await receive_into(far, (view[have : have + 1000], view[have + 1000 :]))
        assert got[: len(data)] == data
        assert rest == b"header" + data


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
async def test_nothing_blocks(kind: str, tmp_path: Path) -> None:
    """The try_ calls say that there is nothing to read, and that no more can be sent, instead of waiting."""
    async with pair(kind, tmp_path) as (near, far):
        while (early := far.try_receive(1000)) is not None:
            assert early == b""
        sent = 0
        while count := near.try_send(b"x" * 65536):
            sent += count
        assert sent > 65536
        got = 0
        while got < sent:
            got += len(await receive(far, 1 << 20))
            if near.holds_output:
                near.try_send(b"")
        assert got == sent


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
async def test_the_end_is_noticed(kind: str, tmp_path: Path) -> None:
    """A closed peer gives b"" or an OSError, at once."""
    async with pair(kind, tmp_path) as (near, far):
        far.close()
        with trio.fail_after(60):
            with suppress(OSError):
                assert await receive(near, 100) == b""
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await send_all(near, b"x" * 10_000_000)
