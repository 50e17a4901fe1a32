"""Sessions: found, lost and found again; and what answers that is no pool."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from scheduler.hypervisor import HypervisorError, Refused, Unreachable
from scheduler.xen.errors import (
    BadArgument,
    CertificateRefused,
    CredentialsRefused,
    NoAnswer,
    NotAXenPool,
    PoolUnreachable,
)
from scheduler.xen.session import PoolSession, on_the_wire
from scheduler.xen.settings import Address, BadPoolSettings, PoolSettings
from tests.scheduler.xen.simulated import Simulation, driving, simulation


@asynccontextmanager
async def session_of(settings: PoolSettings) -> AsyncIterator[PoolSession]:
    """A session that is ended after the test."""
    session = PoolSession(settings)
    try:
        yield session
    finally:
        await session.close()


def sessions(sim: Simulation) -> int:
    """How many sessions of ours the pool knows."""
    return len([row for row in sim.rows("session") if row["originator"] == "ringstead"])


async def test_calls_and_logout(sim: Simulation) -> None:
    """A call logs in; closing logs out, so no session is left for the pool to keep a day."""
    async with session_of(sim.pool_settings()) as session:
        assert len(await session.call("host.get_all")) == 2
        assert sessions(sim) == 1
    assert sessions(sim) == 0


async def test_calls_at_once_share_a_few_sessions(sim: Simulation) -> None:
    """Never more than the setting says."""
    sim.fault("host.get_all", delay_s=0.05)
    async with session_of(sim.pool_settings(sessions=3)) as session, trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(session.call, "host.get_all")
    assert len([row for row in sim.rows("session") if row["originator"] == "ringstead"]) == 0


async def test_a_slave_points_to_the_master(sim: Simulation) -> None:
    """Any host of the pool will do to begin with."""
    slave = Address("http", str(sim.host(1)["address"]), sim.port)
    async with session_of(sim.pool_settings(addresses=(slave,))) as session:
        assert len(await session.call("host.get_all")) == 2
        assert session.whereabouts.first().host == sim.host(0)["address"]


async def test_a_dead_seed_is_passed_over(sim: Simulation) -> None:
    """Of several addresses one that answers is enough."""
    nobody = Address("http", "127.0.99.1", sim.port)
    slave = Address("http", str(sim.host(1)["address"]), sim.port)
    async with session_of(sim.pool_settings(addresses=(nobody, slave))) as session:
        assert len(await session.call("host.get_all")) == 2


async def test_a_lost_session_is_renewed(sim: Simulation) -> None:
    """SESSION_INVALID means log in again and repeat: the call was not done."""
    async with session_of(sim.pool_settings()) as session:
        await session.call("host.get_all")
        for row in sim.rows("session"):
            sim.pool().database.remove(row)
        assert len(await session.call("host.get_all")) == 2


async def test_another_master(sim: Simulation) -> None:
    """After a switch the old master has lost its sessions and is a slave: the driver goes where it points."""
    async with driving(sim.xen_pool()) as pool:
        before = await pool.inventory()
        assert [host.is_master for host in before.hosts] == [True, False]
        sim.pool().promote(sim.host(1))
        sim.settle()
        after = await pool.inventory(fresh=True)
        assert [host.is_master for host in after.hosts] == [False, True]


async def test_a_dead_master(sim: Simulation) -> None:
    """When the master dies and another takes over, the hosts that were learned are asked for the way."""
    async with driving(sim.xen_pool()) as pool:
        await pool.inventory()
        sim.pool().promote(sim.host(1))
        sim.site.kill(sim.pool(), sim.host(0))
        sim.settle()
        with trio.fail_after(20):
            while True:
                try:
                    after = await pool.inventory(fresh=True)
                    break
                except Unreachable:
                    await trio.sleep(0.1)
        assert [host.is_master for host in after.hosts] == [False, True]


async def test_a_wrong_password(sim: Simulation) -> None:
    """A clear error, in which the password is not."""
    async with session_of(sim.pool_settings(password="hunter2")) as session:
        with pytest.raises(CredentialsRefused) as caught:
            await session.call("host.get_all")
    assert "root" in str(caught.value)
    assert "p1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    """Nor would they be in a log of any of these."""
    settings = PoolSettings("p", (Address.parse("http://127.0.0.1"),), "root", "hunter2")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(PoolSession(settings))


async def test_nobody_there(sim: Simulation) -> None:
    """A port that nobody listens on, a name that does not exist: PoolUnreachable, at once."""
    for where in ("127.0.99.1", "no-such-host.invalid"):
        async with session_of(sim.pool_settings(addresses=(Address("http", where, sim.port),))) as session:
            with trio.fail_after(10), pytest.raises(PoolUnreachable):
                await session.call("host.get_all")


@pytest.mark.parametrize("method", ["pool.get_all", "VM.set_name_label"])
@pytest.mark.parametrize("cut", ["before", "during", "after"])
async def test_a_connection_that_is_cut(sim: Simulation, method: str, cut: str) -> None:
    """What reads is repeated by itself; what writes is NoAnswer and sent once."""
    vm = sim.rows("VM")[0]
    async with session_of(sim.pool_settings()) as session:
        await session.call("host.get_all")
        sim.fault(method, cut=cut, count=1)
        if method == "pool.get_all":
            assert len(await session.call(method)) == 1
        else:
            with pytest.raises(NoAnswer):
                await session.call(method, vm.ref, "renamed")
            assert (vm["name_label"] == "renamed") is (cut != "before")
        assert len(await session.call("host.get_all")) == 2
    assert sim.faults_left() == 0


async def test_a_slow_call_ends_at_its_deadline(sim: Simulation) -> None:
    """NoAnswer in time, and the next call is well."""
    async with session_of(sim.pool_settings()) as session:
        await session.call("host.get_all")
        sim.fault("VM.set_name_label", delay_s=60.0, count=1)
        with trio.fail_after(30), pytest.raises(NoAnswer):
            await session.call("VM.set_name_label", "OpaqueRef:x", "y", timeout_s=0.5)
        assert len(await session.call("host.get_all")) == 2


async def test_a_cancelled_call_leaves_no_thread(sim: Simulation) -> None:
    """Cancelling ends the call at once, and its slot is free again."""
    sim.fault("host.get_all", hang=True, count=4)
    async with session_of(sim.pool_settings(sessions=1)) as session:
        for _ in range(3):
            with trio.move_on_after(0.2) as scope:
                await session.call("host.get_all")
            assert scope.cancelled_caught
        sim.pool().faults.cancel()
        with trio.fail_after(20):
            assert len(await session.call("host.get_all")) == 2


Answer = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def something_else(answer: Answer) -> AsyncIterator[Address]:
    """A server that is no pool."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            await stream.receive_some(65536)
            await answer(stream)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield Address("http", "127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def http(body: bytes, *, length: int | None = None, status: str = "200 OK") -> bytes:
    """An HTTP answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def rpc(value: str) -> bytes:
    """An XML-RPC answer."""
    inside = f"<params><param><value>{value}</value></param></params>"
    return http(f"<?xml version='1.0'?><methodResponse>{inside}</methodResponse>".encode())


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<methodResponse><params><param><value><string>&b;</string></value></param></params></methodResponse>"
)


@pytest.mark.parametrize(
    "body",
    [
        http(b"<html><body>Welcome to nginx!</body></html>"),
        http(b"<html>Bad gateway</html>", status="502 Bad Gateway"),
        http(b""),
        http(b"\x00\xff" * 100),
        http(BOMB),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail ESMTP\r\n",
        rpc("<string>hello</string>"),
        rpc("<struct></struct>"),
        rpc("<struct><member><name>Status</name><value>Success</value></member></struct>"),
        rpc(
            "<struct><member><name>Status</name><value>Success</value></member><member><name>Value</name><value><int>7</int>"
            "</value></member></struct>"
        ),
        rpc(
            "<struct><member><name>Status</name><value>Failure</value></member><member><name>ErrorDescription</name>"
            "<value>no list</value></member></struct>"
        ),
        rpc("<int>not a number</int>"),
        b"HTTP/1.0 200 OK\r\n\r\n<html>It works!</html>",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 50\r\n\r\nhello",
    ],
    ids=range(16),
)
async def test_nonsense(body: bytes) -> None:
    """What answers a login with something else is no Xen pool, and is told so with what it said."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(body)

    async with something_else(answer) as address:
        settings = PoolSettings("odd", (address,), "root", "hunter2", call_timeout_s=2.0)
        async with session_of(settings) as session:
            with trio.fail_after(10), pytest.raises(HypervisorError) as caught:
                await session.call("host.get_all")
    assert isinstance(caught.value, NotAXenPool | Unreachable)
    assert "odd" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_an_endless_answer() -> None:
    """Neither memory nor time without end: not by much at once, and not by a byte now and then."""

    async def trickle(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while True:
            await stream.send_all(b"a")
            await trio.sleep(0.05)

    async def silent(_stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def half(stream: trio.SocketStream) -> None:
        await stream.send_all(http(b"<?xml", length=10_000))

    async def flood(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"X-More: " + b"a" * 4000 + b"\r\n")

    for answer in (trickle, silent, half, flood):
        async with something_else(answer) as address:
            settings = PoolSettings("slow", (address,), "root", "x", call_timeout_s=1.0)
            async with session_of(settings) as session:
                with trio.fail_after(6), pytest.raises(HypervisorError):
                    await session.call("host.get_all")


async def test_a_bad_pool_does_not_hold_up_others(sim: Simulation) -> None:
    """Each has its own threads: while one hangs, another answers."""
    async with something_else(lambda _stream: trio.sleep_forever()) as address:
        bad = PoolSettings("bad", (address,), "root", "x", call_timeout_s=30.0)
        async with session_of(bad) as stuck, session_of(sim.pool_settings()) as session, trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(stuck.call, "host.get_all")
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(20):
                for _ in range(10):
                    await session.call("host.get_all")
            nursery.cancel_scope.cancel()


async def test_certificates(tmp_path: Path) -> None:
    """Trusted by its authority or by its fingerprint; otherwise nothing is sent, and the error says what to do."""
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.10.1", "127.0.10.2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stranger.cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    pin = sha256(ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())).hexdigest()
    async with simulation(tmp_path, context=context) as sim:
        good: list[dict[str, Any]] = [
            {"ca_file": str(tmp_path / "ca.pem")},
            {"fingerprints": (pin,)},
            {"fingerprints": ("0" * 64, ":".join(pin[at : at + 2] for at in range(0, 64, 2)).upper())},
            {"verify": False},
        ]
        for trusted in good:
            async with session_of(sim.pool_settings(**trusted)) as session:
                assert len(await session.call("host.get_all")) == 2
        asked = len(sim.rows("session"))
        bad: list[dict[str, Any]] = [{}, {"ca_file": str(tmp_path / "stranger.pem")}, {"fingerprints": ("0" * 64,)}]
        for untrusted in bad:
            async with session_of(sim.pool_settings(**untrusted)) as session:
                with pytest.raises(CertificateRefused, match="fingerprint"):
                    await session.call("host.get_all")
        assert len(sim.rows("session")) == asked
        plain = Address("http", "127.0.10.1", sim.port)
        async with session_of(sim.pool_settings(addresses=(plain,), call_timeout_s=2.0)) as session:
            with pytest.raises((NoAnswer, PoolUnreachable, NotAXenPool)):
                await session.call("host.get_all")
    with pytest.raises(CertificateRefused):
        PoolSession(PoolSettings("p", (plain,), "root", "x", ca_file=str(tmp_path / "missing.pem")))


def test_parameters_on_the_wire() -> None:
    """Integers are strings, since XML-RPC's have 32 bits; what XML cannot carry is refused."""
    assert on_the_wire({"a": 1 << 40, "b": [True, 1.5, "x"]}) == {"a": str(1 << 40), "b": [True, 1.5, "x"]}
    for name in ("nul\0", "bell\x07", "\ud800"):
        with pytest.raises(BadArgument):
            on_the_wire(name)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://xen1.example", ("https", "xen1.example", 443)),
        ("xen1.example", ("https", "xen1.example", 443)),
        ("http://10.0.0.1:8080", ("http", "10.0.0.1", 8080)),
        ("https://[fd00::1]", ("https", "fd00::1", 443)),
    ],
)
def test_addresses(text: str, address: tuple[str, str, int]) -> None:
    """As operators write them."""
    assert Address.parse(text) == Address(*address)


def test_other_hosts_of_a_pool() -> None:
    """XenAPI names them by their IP: scheme and port are as of the one that is known."""
    base = Address("https", "10.0.0.1", 8443)
    assert base.beside("10.0.0.2") == Address("https", "10.0.0.2", 8443)
    assert base.beside("10.0.0.2:9000") == Address("https", "10.0.0.2", 9000)
    assert base.beside("fd00::2") == Address("https", "fd00::2", 8443)
    assert base.beside("http://10.0.0.3:80") == Address("http", "10.0.0.3", 80)


@pytest.mark.parametrize("text", ["", "ftp://x", "https://", "https://user:pw@host", "https://h:99999"])
def test_addresses_that_are_none(text: str) -> None:
    """Refused with what to write instead."""
    with pytest.raises(BadPoolSettings):
        Address.parse(text)


def test_refused_is_for_operators() -> None:
    """What the driver tells of settings is Refused to the lifecycle: no retry helps."""
    assert issubclass(CertificateRefused, Refused)
    assert issubclass(CredentialsRefused, Refused)
    assert issubclass(NotAXenPool, Refused)
