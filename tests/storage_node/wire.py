"""What the tests of the wire share: real devices behind real servers on real sockets, and peers that misbehave."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from storage_node.client import DeviceClient
from storage_node.device import Batch, Device
from storage_node.dial import Opened, Peer, dial, welcome
from storage_node.handshake import NONCE_BYTES, Purpose, ServerHandshake
from storage_node.operations import PutCatalog, PutObject, PutRow
from storage_node.server import StorageServer
from storage_node.settings import DeviceSettings
from storage_node.sockets import listen, tune
from storage_node.transport import SocketTransport, receive
from tests.support.small_device import SMALL_DEVICE

KEY = b"the key of the tests' cluster..."
UUID = b"u" * 16
NOW = 1_700_000_000_000_000 << 12


def hash_of(number: int) -> bytes:
    """The hash of the test's object with that number."""
    return number.to_bytes(16, "big")


def an_object(number: int, data: bytes = b"data", timestamp: int = NOW) -> PutObject:
    """A write of a small object."""
    return PutObject(hash_of(number), b"/a/c/%d" % number, timestamp, b"meta", data)


def a_container(timestamp: int = NOW) -> PutCatalog:
    """A write of the container that the rows of a_row belong to."""
    return PutCatalog(1, hash_of(0), b"/a/c", timestamp, {})


def a_row(number: int, timestamp: int = NOW) -> PutRow:
    """A write of one row."""
    return PutRow(1, hash_of(0), b"%06d" % number, timestamp, timestamp, False, 1, 4, b"payload")


def open_device(path: Path, settings: DeviceSettings = SMALL_DEVICE, name: str = "sda") -> Device:
    """The device in a directory, made if it is not there."""
    if not path.exists():
        Device.create(path, name)
    return Device.open(path, settings=settings)


class GatedDevice:
    """A real device whose syncs wait until the test opens the gate (they must run in a thread)."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.gate = threading.Event()
        self.syncing = threading.Event()
        self.batch_sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def decide(self, operations: Any) -> Batch:
        """Notes how many came together."""
        self.batch_sizes.append(len(operations))
        return self._device.decide(operations)

    def sync(self, batch: Batch) -> None:
        """Waits for the gate, ten seconds at most."""
        self.syncing.set()
        self.gate.wait(10)
        self._device.sync(batch)


@asynccontextmanager
async def serving(device: Any, address: str, **options: Any) -> AsyncIterator[StorageServer]:
    """A server of one device at an address."""
    server = StorageServer({"sda": device}, KEY, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listen(address)])
        try:
            yield server
        finally:
            server.stop()


@asynccontextmanager
async def connected(address: str, name: str = "sda", **options: Any) -> AsyncIterator[DeviceClient]:
    """A running client; its first attempt to connect is over."""
    client = DeviceClient(address, name, options.pop("key", KEY), **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        try:
            yield client
        finally:
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], Any]) -> None:
    """Wait, a minute at most, until something in this process has come about."""
    with trio.fail_after(60):
        while not condition():
            await trio.lowlevel.checkpoint()


async def knock(address: str, purpose: Purpose = Purpose.CONTROL) -> Opened:
    """An authenticated connection without a client behind it: the test speaks for itself."""
    return await dial(Peer(address, "sda", KEY, b"", None, lambda: 0, os.urandom), purpose)


async def the_end_of(opened: Opened) -> None:
    """Wait until the other end closes the connection; then close this one."""
    with trio.fail_after(60), suppress(OSError):
        while await receive(opened.transport, 65536):
            pass
    opened.transport.close()


@asynccontextmanager
async def answering(address: str, answer: Callable[[Opened], Any]) -> AsyncIterator[list[Opened]]:
    """A peer that proves itself and then does whatever the test says with each connection. Gives those accepted so far."""
    listener = listen(address)
    accepted: list[Opened] = []

    async def meet(sock: socket.socket) -> None:
        tune(sock)
        handshake = ServerHandshake(KEY, lambda name: UUID, os.urandom(NONCE_BYTES))
        try:
            opened = await welcome(SocketTransport(sock), handshake)
            accepted.append(opened)
            await answer(opened)
        except (OSError, trio.ClosedResourceError):
            return

    async def accept() -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            sock, _ = listener.accept()
            nursery.start_soon(meet, sock)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        try:
            yield accepted
        finally:
            nursery.cancel_scope.cancel()
            for opened in accepted:
                opened.transport.close()
            listener.close()


def free_port_address() -> str:
    """An address on the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def tls_contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context of a certificate for 127.0.0.1, made for the test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "tls.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cafile=str(path))
    return server, client
