"""Opening an authenticated connection, from either end: the handshake's bytes carried over a transport."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

from storage_node.handshake import HANDSHAKE_BYTES_MAX, NONCE_BYTES, Agreed, ClientHandshake, Purpose, ServerHandshake
from storage_node.sockets import connect, parse_address
from storage_node.transport import SocketTransport, TlsTransport, Transport, receive, send_all


class Opened(NamedTuple):
    """A connection on which both ends have proved themselves."""

    transport: Transport
    agreed: Agreed


class Peer(NamedTuple):
    """What a client needs to reach one device."""

    address: str
    device_name: str
    cluster_key: bytes
    device_uuid: bytes
    ssl_context: ssl.SSLContext | None
    """For TCP only: a Unix socket never leaves the machine."""
    ring_epoch: Callable[[], int]
    random_bytes: Callable[[int], bytes]


async def dial(peer: Peer, purpose: Purpose) -> Opened:
    """Connect to a device's server.

    Raises OSError when it cannot be reached, HandshakeError's kinds when the two do not agree, ProtocolError when it is
    something else that listens there. Cancel it to limit its time.
    """
    sock = await connect(peer.address)
    try:
        transport = await _wrap_client(sock, peer)
        handshake = ClientHandshake(
            peer.cluster_key,
            peer.device_name,
            purpose,
            peer.random_bytes(NONCE_BYTES),
            ring_epoch=peer.ring_epoch(),
            device_uuid=peer.device_uuid,
        )
        await send_all(transport, handshake.start())
        while handshake.agreed is None:
            data = await receive(transport, HANDSHAKE_BYTES_MAX)
            if not data:
                raise ConnectionResetError("the server closed the connection in the handshake")
            answer = handshake.receive(data)
            if answer:
                await send_all(transport, answer)
        return Opened(transport, handshake.agreed)
    except BaseException:
        sock.close()
        raise


async def _wrap_client(sock: socket.socket, peer: Peer) -> Transport:
    if peer.ssl_context is None or sock.family == socket.AF_UNIX:
        return SocketTransport(sock)
    tls = TlsTransport(sock, peer.ssl_context, parse_address(peer.address).host)
    await tls.handshake()
    return tls


async def welcome(sock: socket.socket, handshake: ServerHandshake, ssl_context: ssl.SSLContext | None) -> Opened:
    """Let a client prove itself.

    Raises the handshake's `error` after the client was told, OSError, ProtocolError. Cancel it to limit its time.
    """
    try:
        transport: Transport
        if ssl_context is not None and sock.family != socket.AF_UNIX:
            transport = tls = TlsTransport(sock, ssl_context, None)
            await tls.handshake()
        else:
            transport = SocketTransport(sock)
        while handshake.agreed is None:
            data = await receive(transport, HANDSHAKE_BYTES_MAX)
            if not data:
                raise ConnectionResetError("the client closed the connection in the handshake")
            answer = handshake.receive(data)
            if answer:
                await send_all(transport, answer)
            if handshake.error is not None:
                raise handshake.error
        return Opened(transport, handshake.agreed)
    except BaseException:
        sock.close()
        raise
