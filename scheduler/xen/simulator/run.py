"""Running a simulator: addresses, certificates, a folder for its state, and an orderly end.

The disks and, if asked for, the records are in the folder; without one they are in a temporary one that goes at the end.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Final

import trio

from scheduler.xen.simulator import layout, saved
from scheduler.xen.simulator.allowed import refresh
from scheduler.xen.simulator.certificate import certificate
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.disks import Disks
from scheduler.xen.simulator.latency import Latencies
from scheduler.xen.simulator.pool import Account, Pool
from scheduler.xen.simulator.server import Server
from scheduler.xen.simulator.site import Site

PORT: Final = 9080
TLS_PORT: Final = 9443
_TRIES: Final = 20
GIB: Final = 1 << 30


class BadSetting(ValueError):
    """A setting makes no sense, or cannot be had on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to simulate, and where to serve it."""

    port: int | None = None
    """Of every host; 0 finds a free one, None is the usual one."""
    address: str = "127.0.0.1"
    """Of the first host."""
    one_address: bool = False
    """All hosts at one address, at consecutive ports."""
    pools: int = 1
    hosts: int = 3
    """Of each pool."""
    memory_gib: int = 64
    cpus: int = 16
    local_gib: int = 512
    shared_gib: int = 2048
    local_type: str = "ext"
    user: str = "root"
    password: str = field(default="root", repr=False)
    tls: bool = False
    cert: Path | None = None
    key: Path | None = None
    latency: float = 0.1
    live_lag: float = 600.0
    seed: str | None = None
    state: Path | None = None

    def __post_init__(self) -> None:
        try:
            IPv4Address(self.address)
        except AddressValueError:
            raise BadSetting(f"--address {self.address} is no IPv4 address") from None
        if (self.cert is None) != (self.key is None):
            raise BadSetting("--cert and --key go together")
        if self.cert is not None and not self.tls:
            raise BadSetting("--cert is for --tls")


def run(
    settings: Settings,
    *,
    say: Callable[[str], None],
    ready: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called once hosts listen. Raises BadSetting before anything is served."""
    with _folder(settings) as folder, _one_failure():
        trio.run(_serve, settings, folder, say, ready, clock)


@contextlib.contextmanager
def _one_failure() -> Iterator[None]:
    """Out of nurseries' groups, the one failure that ended them, for the operator to read."""
    try:
        yield
    except* saved.CannotSave as group:
        raise BadSetting(str(_leaf(group))) from None
    except* BadSetting as group:
        raise _leaf(group) from None


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first


@contextlib.contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    if settings.state is not None:
        try:
            settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)  # disks of servers are in it
        except OSError as error:
            raise BadSetting(f"--state {settings.state}: {error.strerror}") from None
        yield settings.state
    else:
        with tempfile.TemporaryDirectory(prefix="ringstead-xensim-") as name:
            yield Path(name)


async def _serve(
    settings: Settings, folder: Path, say: Callable[[str], None], ready: Callable[[], None], clock: Callable[[], float]
) -> None:
    with contextlib.ExitStack() as held:
        sockets = listen(settings)
        for each in sockets:
            held.callback(each.close)
        async with trio.open_nursery() as nursery:
            keeper = _keeper(settings, folder)
            held.callback(keeper.close)
            server = make_server(settings, folder, sockets, keeper, clock)
            await nursery.start(_until_signal, nursery.cancel_scope)
            context, authority = _tls(settings, folder, sockets, server.site)
            await nursery.start(server.run, server_listeners(server.site, sockets), context)
            _announce(server.site, settings, authority, say)
            ready()


def _keeper(settings: Settings, folder: Path) -> saved.Keeper:
    try:
        return saved.Keeper(folder)
    except saved.Unreadable as error:
        raise BadSetting(str(error)) from None


def make_server(
    settings: Settings, folder: Path, sockets: list[socket.socket], keeper: saved.Keeper, clock: Callable[[], float]
) -> Server:
    """The server of a site made anew, or taken from what was saved. Raises BadSetting."""
    pools = _load_pools(settings, folder, keeper, clock) or _new_pools(settings, folder, sockets, clock)
    hosts = [(pool, host) for pool in pools for host in pool.database.rows("host")]
    slots = [_slot(host) for _pool, host in hosts]
    if max(slots) >= len(sockets) or len(pools) != settings.pools:
        made = f"{len(pools)} pools with {max(slots) + 1} hosts"
        raise BadSetting(f"{folder} was made for {made}: ask for as many, or use another folder")
    scheme = "https" if settings.tls else "http"
    for pool, host in hosts:
        address, port = sockets[_slot(host)].getsockname()[:2]
        pool.urls[host.ref] = f"{scheme}://{address}:{port}"
        pool.database.set(host, address=_address(settings, address, port))
        for pif in pool.database.all("PIF", host["PIFs"]):
            pool.database.set(pif, IP=address)
    for pool in pools:
        refresh(pool)
    site = Site(pools)
    if settings.state is not None:
        keeper.begin(site)
    return Server(site, clock=clock, note=keeper.note)


def _address(settings: Settings, address: str, port: int) -> str:
    """What a host's record says: hosts that share an address need their port said."""
    return f"{address}:{port}" if settings.one_address else address


def server_listeners(site: Site, sockets: list[socket.socket]) -> list[tuple[Pool, Row, trio.SocketListener]]:
    """Each host with the listener at which it is served."""
    return [
        (pool, host, trio.SocketListener(trio.socket.from_stdlib_socket(sockets[_slot(host)])))
        for pool in site.pools
        for host in pool.database.rows("host")
    ]


def _slot(host: Row) -> int:
    """The number of a host among all that there were when its pool was made."""
    return int(host["other_config"].get(layout.SLOT, "0"))


def _new_pool(settings: Settings, index: int, disks: Disks, clock: Callable[[], float]) -> Pool:
    seed = settings.seed if settings.seed is not None else secrets.token_hex(16)
    return Pool(
        f"pool{index + 1}",
        clock=clock,
        disks=disks,
        seed=f"{seed}/{index}",
        latencies=Latencies(factor=settings.latency),
        account=Account(settings.user, settings.password),
        live_lag_s=settings.live_lag,
    )


def _new_pools(
    settings: Settings, folder: Path, sockets: list[socket.socket], clock: Callable[[], float]
) -> list[Pool]:
    disks = Disks(folder / "disks")
    pools = []
    for index in range(settings.pools):
        pool = _new_pool(settings, index, disks, clock)
        own = sockets[index * settings.hosts : (index + 1) * settings.hosts]
        addresses = tuple(str(each.getsockname()[0]) for each in own)
        host = layout.HostPlan(settings.memory_gib * GIB, settings.cpus, settings.local_gib * GIB, settings.local_type)
        layout.build(
            pool, layout.PoolPlan(pool.name, addresses, host, settings.shared_gib * GIB, index * settings.hosts)
        )
        pools.append(pool)
    return pools


def _load_pools(settings: Settings, folder: Path, keeper: saved.Keeper, clock: Callable[[], float]) -> list[Pool]:
    if settings.state is None:
        return []
    try:
        return keeper.load(lambda index: _new_pool(settings, index, Disks(folder / "disks"), clock))
    except saved.Unreadable as error:
        raise BadSetting(f"{error}; use another folder, or remove it") from None


def listen(settings: Settings) -> list[socket.socket]:
    """A listening socket for each host of all pools. Raises BadSetting when the addresses cannot be had."""
    wanted = settings.port if settings.port is not None else TLS_PORT if settings.tls else PORT
    for attempt in range(_TRIES):
        try:
            return _listen_at(settings, wanted)
        except OSError as error:
            again = wanted == 0 and error.errno == errno.EADDRINUSE and attempt < _TRIES - 1
            if not again:
                raise BadSetting(f"cannot listen at {settings.address} port {wanted}: {error.strerror}") from None
    raise AssertionError("the last attempt returns or raises")


def _listen_at(settings: Settings, port: int) -> list[socket.socket]:
    base = IPv4Address(settings.address)
    sockets: list[socket.socket] = []
    try:
        for index in range(settings.pools * settings.hosts):
            each = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.setblocking(False)
            first = sockets[0].getsockname()[1] if index else port
            if settings.one_address:
                each.bind((str(base), first + index if first else 0))
            else:
                each.bind((str(base + index), first))
            each.listen(256)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def _tls(
    settings: Settings, folder: Path, sockets: list[socket.socket], site: Site
) -> tuple[ssl.SSLContext | None, Path | None]:
    if not settings.tls:
        return None, None
    addresses = sorted({str(each.getsockname()[0]) for each in sockets})
    cert, key = (settings.cert, settings.key) if settings.cert is not None else certificate(folder, addresses)
    assert cert is not None
    assert key is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(f"--cert {cert}: {error}") from None
    for pool in site.pools:
        pool.certificate_pem = cert.read_text()
    return context, cert


def _announce(site: Site, settings: Settings, cert: Path | None, say: Callable[[str], None]) -> None:
    for pool in site.pools:
        for host in pool.database.rows("host"):
            role = "master" if host is pool.master else "slave"
            say(f"{pool.name} {host['name_label']} {role} {pool.url(host)}")
    if cert is not None:
        say(f"certificate {cert}")
    say(f"user {settings.user}; faults: {site.pools[0].url(site.pools[0].master)}/_sim/; ready")


async def _until_signal(scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
