"""The simulator as a process: addresses, both dialects, transfers, faults, TLS, and what is kept across a restart."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import time
import urllib.parse
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.xensim import Xensim, running_xensim

MIB = 1 << 20


@pytest.fixture(scope="module")
def xensim() -> Iterator[Xensim]:
    """One pool of three hosts."""
    with running_xensim("--latency", "0", "--seed", "1", "--shared-gib", "1") as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults_left(xensim: Xensim) -> Iterator[None]:
    """What a test ordered is over when it ends."""
    yield
    xensim.control("DELETE", "/faults")


class Session:
    """XML-RPC by Python's own client."""

    def __init__(self, url: str, path: str = "/", context: ssl.SSLContext | None = None) -> None:
        self.proxy = (
            xmlrpc.client.ServerProxy(url + path, context=context) if context else xmlrpc.client.ServerProxy(url + path)
        )
        self.ref = ""
        self.ref = self.call("session.login_with_password", "root", "root")

    def call(self, method: str, *arguments: Any) -> Any:
        """The value, or the failure's description."""
        target: Any = self.proxy
        for part in method.split("."):
            target = getattr(target, part)
        answer: Any = target(*([self.ref] if self.ref else []), *arguments)
        return answer["Value"] if answer["Status"] == "Success" else answer["ErrorDescription"]

    def local_sr(self, index: int) -> str:
        """The SR on a host's own disk."""
        return str(self.call("SR.get_by_name_label", f"Local storage on pool1-h{index + 1}")[0])

    def vdi(self, sr: str, size_bytes: int = 8 * MIB) -> str:
        """A new disk."""
        return str(
            self.call("VDI.create", {"SR": sr, "name_label": "disk", "virtual_size": str(size_bytes), "type": "user"})
        )


@pytest.fixture
def session(xensim: Xensim) -> Session:
    """A session with the master."""
    return Session(xensim.urls[0])


def transfer(
    url: str, method: str, path: str, query: dict[str, str], body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of one HTTP exchange, redirects not followed."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    try:
        connection.request(method, f"{path}?{urllib.parse.urlencode(query)}", body=body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/RPC2", "/xmlrpc"])
def test_calls_are_served_at_every_path(xensim: Xensim, path: str) -> None:
    """XML-RPC at each path that clients use."""
    assert len(Session(xensim.urls[0], path).call("host.get_all")) == 3


def test_both_dialects_share_sessions(xensim: Xensim, session: Session) -> None:
    """A session of XML-RPC works over JSON-RPC, where ints are numbers."""

    def call(method: str, *arguments: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 5, "method": method, "params": [session.ref, *arguments]}).encode()
        status, headers, answer = transfer(xensim.urls[0], "POST", "/jsonrpc", {}, body)
        assert (status, headers["content-type"]) == (200, "application/json")
        return json.loads(answer)

    host = session.call("host.get_all")[0]
    free = call("host.compute_free_memory", host)
    assert free["id"] == 5
    assert free["result"] == int(session.call("host.compute_free_memory", host))
    assert call("VM.get_record", "x")["error"] == {"code": 1, "message": "HANDLE_INVALID", "data": ["VM", "x"]}


def test_a_slave_sends_to_the_master(xensim: Xensim) -> None:
    """Each host has its own address; at a slave's a login names the master's."""
    assert [urllib.parse.urlsplit(url).hostname for url in xensim.urls] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    answer: Any = xmlrpc.client.ServerProxy(xensim.urls[1]).session.login_with_password("root", "root")
    assert answer["ErrorDescription"] == ["HOST_IS_SLAVE", "127.0.0.1"]


def test_disks_go_in_and_out_at_the_host_that_reaches_them(xensim: Xensim, session: Session) -> None:
    """Others redirect, the master too; the bytes come back, as raw and as VHD, and the task has succeeded."""
    vdi = session.vdi(session.local_sr(1))
    data = os.urandom(MIB) + bytes(2 * MIB) + b"end"
    task = session.call("task.create", "upload", "")
    query = {"session_id": session.ref, "vdi": vdi, "task_id": task, "format": "raw"}
    for url in (xensim.urls[0], xensim.urls[2]):
        status, headers, _ = transfer(url, "PUT", "/import_raw_vdi", query, b"")
        assert status == 302
        assert headers["location"].startswith(xensim.urls[1] + "/import_raw_vdi?")
    assert transfer(xensim.urls[1], "PUT", "/import_raw_vdi", query, data)[0] == 200
    assert session.call("task.get_status", task) == "success"
    assert MIB <= int(session.call("VDI.get_physical_utilisation", vdi)) < 2 * MIB
    query = {"session_id": session.ref, "vdi": session.call("VDI.get_uuid", vdi)}
    status, headers, body = transfer(xensim.urls[1], "GET", "/export_raw_vdi", query)
    assert (status, int(headers["content-length"])) == (200, 8 * MIB)
    assert body == data.ljust(8 * MIB, b"\0")
    image = transfer(xensim.urls[1], "GET", "/export_raw_vdi", {**query, "format": "vhd"})[2]
    copy = session.vdi(session.local_sr(1))
    assert transfer(xensim.urls[1], "PUT", "/import_raw_vdi", {**query, "vdi": copy, "format": "vhd"}, image)[0] == 200
    assert transfer(xensim.urls[1], "GET", "/export_raw_vdi", {**query, "vdi": copy})[2] == body


def test_transfers_want_a_session(xensim: Xensim, session: Session) -> None:
    """Or a user and password; and a disk that there is."""
    vdi = session.vdi(session.local_sr(0), 2 * MIB)
    assert transfer(xensim.urls[0], "GET", "/export_raw_vdi", {"vdi": vdi})[0] == 401
    assert transfer(xensim.urls[0], "GET", "/export_raw_vdi", {"vdi": vdi, "session_id": "OpaqueRef:x"})[0] == 401
    assert transfer(xensim.urls[0], "GET", "/export_raw_vdi", {"vdi": "x", "session_id": session.ref})[0] == 404


def test_an_upload_that_is_too_large_fails_its_task(xensim: Xensim, session: Session) -> None:
    """More than the disk holds, or more than the SR has."""
    for size, sr, body, code in (
        (2 * MIB, session.local_sr(0), bytes(1) * 3 * MIB + b"x", "VDI_IO_ERROR"),
        (2 * MIB, session.local_sr(0), b"no image" * 100, "VDI_IO_ERROR"),
    ):
        vdi = session.vdi(sr, size)
        task = session.call("task.create", "upload", "")
        kind = "raw" if len(body) > MIB else "vhd"
        query = {"session_id": session.ref, "vdi": vdi, "task_id": task, "format": kind}
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            transfer(xensim.urls[0], "PUT", "/import_raw_vdi", query, body)
        assert session.call("task.get_status", task) == "failure"
        assert session.call("task.get_error_info", task)[0] == code
        assert session.call("VDI.get_current_operations", vdi) == {}


def test_a_full_sr_ends_an_upload(xensim: Xensim, session: Session) -> None:
    """A thin SR promises more than it has, and says so when it is full."""
    (shared,) = session.call("SR.get_by_name_label", "Shared storage")
    host = session.call("host.get_all")[0]
    sr = session.call("SR.create", host, {}, str(8 * MIB), "tiny", "", "ext", "user", False, {})
    vdi = session.vdi(sr, 8 * MIB)
    second = session.vdi(sr, 8 * MIB)
    assert shared != sr
    query = {"session_id": session.ref, "vdi": vdi}
    assert transfer(xensim.urls[0], "PUT", "/import_raw_vdi", query, b"x" * (5 * MIB))[0] == 200
    task = session.call("task.create", "upload", "")
    query = {"session_id": session.ref, "vdi": second, "task_id": task}
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        transfer(xensim.urls[0], "PUT", "/import_raw_vdi", query, b"x" * (8 * MIB))
    assert session.call("task.get_error_info", task)[0] == "SR_FULL"


def test_measurements_are_told(xensim: Xensim, session: Session) -> None:
    """In XML and in JSON, the same figures each time."""
    query = {"session_id": session.ref, "start": "0", "host": "true", "json": "true", "interval": "60"}
    first = json.loads(transfer(xensim.urls[1], "GET", "/rrd_updates", query)[2])
    assert any(entry.endswith(":memory_free_kib") for entry in first["meta"]["legend"])
    assert first["meta"]["rows"] == len(first["data"]) > 10
    assert all(len(row["values"]) == first["meta"]["columns"] for row in first["data"])
    query["json"] = "false"
    assert transfer(xensim.urls[1], "GET", "/rrd_updates", query)[2].startswith(b"<xport><meta><start>")


def test_a_connection_serves_one_request_after_another(xensim: Xensim, session: Session) -> None:
    """Also those without a body, measurements among them; where it is closed after an answer, the answer says so."""
    url = urllib.parse.urlsplit(xensim.urls[0])
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=20)
    connection.connect()
    port = connection.sock.getsockname()[1]
    query = urllib.parse.urlencode({"session_id": session.ref, "start": "0"})
    for path, status in ((f"/rrd_updates?{query}", 200), ("/rrd_updates", 401), ("/nothing", 404), ("/", 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (status, None)
        assert answer.read()
        assert connection.sock.getsockname()[1] == port
    connection.request("PUT", "/import_raw_vdi", b"unread")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("connection")) == (401, "close")
    connection.close()


def test_an_error_is_answered_as_often_as_ordered(xensim: Xensim, session: Session) -> None:
    """Any code on any message, asynchronous ones included, and then no more."""
    xensim.control("POST", "/faults", {"method": "VM.get_*", "error": ["INTERNAL_ERROR", "ordered"], "count": 2})
    assert session.call("VM.get_all") == ["INTERNAL_ERROR", "ordered"]
    assert session.call("host.get_all")[0].startswith("OpaqueRef:")
    assert session.call("VM.get_all") == ["INTERNAL_ERROR", "ordered"]
    assert session.call("VM.get_all")[0].startswith("OpaqueRef:")
    xensim.control("POST", "/faults", {"method": "VM.start", "error": ["NO_HOSTS_AVAILABLE"], "count": 1})
    vm = session.call("VM.create", {"name_label": "vm"})
    task = session.call("Async.VM.start", vm, False, False)
    assert session.call("task.get_error_info", task) == ["NO_HOSTS_AVAILABLE"]
    assert xensim.control("GET", "/faults") == []


@pytest.mark.parametrize(("cut", "done"), [("before", 0), ("after", 1), ("during", 1)])
def test_a_connection_is_cut_around_a_call(xensim: Xensim, session: Session, cut: str, done: int) -> None:
    """Before it is carried out, after it, and in the middle of the answer."""
    name = f"cut {cut}"
    xensim.control("POST", "/faults", {"method": "network.create", "cut": cut, "count": 1})
    body = xmlrpc.client.dumps((session.ref, {"name_label": name}), "network.create").encode()
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        transfer(xensim.urls[0], "POST", "/", {}, body)
    assert len(session.call("network.get_by_name_label", name)) == done


def test_lost_events_are_ordered(xensim: Xensim, session: Session) -> None:
    """A token from before is worth nothing afterwards."""
    token = getattr(session, "call")("event.from", ["pool"], "", 0.0)["token"]  # noqa: B009
    xensim.control("POST", "/events/lose", {})
    assert session.call("event.from", ["pool"], token, 0.0) == ["EVENTS_LOST"]


def test_a_poll_is_answered_by_a_change(xensim: Xensim, session: Session) -> None:
    """A poll that waits ends with the change that another client makes; without one, with its time."""
    token = session.call("event.from", ["network"], "", 0.0)["token"]
    assert session.call("event.from", ["network"], token, 0.05)["events"] == []
    parts = urllib.parse.urlsplit(xensim.urls[0])
    waiting = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    waiting.request("POST", "/", xmlrpc.client.dumps((session.ref, ["network"], token, 25.0), "event.from").encode())
    network = session.call("network.create", {"name_label": "news"})
    (answer,), _ = xmlrpc.client.loads(waiting.getresponse().read())
    waiting.close()
    assert [event["ref"] for event in answer["Value"]["events"]] == [network]  # type: ignore[index]


def test_a_dead_master_answers_nothing_but_its_control(xensim: Xensim, session: Session) -> None:
    """Its connections are cut, and the others send there until one of them is promoted; it comes back as a slave."""
    host = session.call("host.get_all")[1]
    assert xensim.control("POST", "/hosts/pool1-h1/kill", {}, at=1) == {"host": "pool1-h1", "done": "kill"}
    try:
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            session.call("host.get_all")
        hosts = xensim.control("GET", "/", at=0)["pools"][0]["hosts"]
        assert [each["state"] for each in hosts] == ["dead", "up", "up"]
        slave: Any = xmlrpc.client.ServerProxy(xensim.urls[1])
        assert slave.session.login_with_password("root", "root")["ErrorDescription"] == ["HOST_IS_SLAVE", "127.0.0.1"]
        xensim.control("POST", "/hosts/pool1-h2/promote", {}, at=2)
        promoted = Session(xensim.urls[1])
        assert promoted.call("pool.get_master", promoted.call("pool.get_all")[0]) == host
        assert len(promoted.call("host.get_all")) == 3
    finally:
        xensim.control("POST", "/hosts/pool1-h1/revive", {}, at=1)
        xensim.control("POST", "/hosts/pool1-h1/promote", {}, at=1)
    assert len(Session(xensim.urls[0]).call("host.get_all")) == 3


@pytest.mark.parametrize("order", ["host", "call"])
def test_what_hangs_does_not_answer(xensim: Xensim, session: Session, order: str) -> None:
    """A hung host, and a call that was ordered to hang: the client's patience ends first, others are served."""
    if order == "host":
        xensim.control("POST", "/hosts/pool1-h1/hang", {})
    else:
        xensim.control("POST", "/faults", {"method": "VM.get_all", "hang": True})
    parts = urllib.parse.urlsplit(xensim.urls[0])
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=0.3)
    try:
        connection.request("POST", "/", xmlrpc.client.dumps((session.ref,), "VM.get_all").encode())
        with pytest.raises(TimeoutError):
            connection.getresponse()
    finally:
        connection.close()
        xensim.control("POST", "/hosts/pool1-h1/revive", {})
        xensim.control("DELETE", "/faults")
    assert session.call("VM.get_all")[0].startswith("OpaqueRef:")


def test_a_slow_call_takes_its_time(xensim: Xensim, session: Session) -> None:
    """The delay that was ordered passes before the answer; other calls are quick."""
    xensim.control("POST", "/faults", {"method": "VM.get_all", "delay_s": 0.4, "count": 1})
    begin = time.monotonic()
    session.call("VM.get_all")
    assert time.monotonic() - begin >= 0.4


def test_an_upload_that_breaks_off_fails_its_task(xensim: Xensim, session: Session) -> None:
    """A client that goes away in the middle leaves a failed task and a disk that is free again."""
    vdi = session.vdi(session.local_sr(0))
    task = session.call("task.create", "upload", "")
    query = urllib.parse.urlencode({"session_id": session.ref, "vdi": vdi, "task_id": task})
    parts = urllib.parse.urlsplit(xensim.urls[0])
    token = session.call("event.from", [f"task/{task}"], "", 0.0)["token"]
    with socket.create_connection((str(parts.hostname), parts.port), timeout=10) as raw:
        head = f"PUT /import_raw_vdi?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {8 * MIB}\r\n\r\n"
        raw.sendall(head.encode() + bytes(MIB))
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
        assert session.call("VDI.destroy", vdi)[0] == "OTHER_OPERATION_IN_PROGRESS"
    while session.call("task.get_status", task) == "pending":
        token = session.call("event.from", [f"task/{task}"], token, 5.0)["token"]
    assert session.call("task.get_error_info", task)[0] == "VDI_IO_ERROR"
    assert session.call("VDI.destroy", vdi) == ""


def test_orders_that_make_no_sense_are_refused(xensim: Xensim) -> None:
    """With what there is instead."""
    for method, path, wish, status in (
        ("POST", "/faults", b'{"method": "x"}', 400),
        ("POST", "/faults", b'{"delay_s": -1}', 400),
        ("POST", "/faults", b'{"cut": "never"}', 400),
        ("POST", "/faults", b'{"colour": 1}', 400),
        ("POST", "/faults", b"nonsense", 400),
        ("POST", "/faults", b'{"pool": "x", "hang": true}', 404),
        ("POST", "/hosts/nobody/kill", b"{}", 404),
        ("POST", "/settings", b'{"latency": "fast"}', 400),
        ("GET", "/nowhere", None, 404),
    ):
        assert transfer(xensim.urls[0], method, f"/_sim{path}", {}, wish)[0] == status, (path, wish)


def test_bytes_that_are_no_http_do_not_harm(xensim: Xensim, session: Session) -> None:
    """A client that speaks nonsense gets an error, and others nothing of it."""
    parts = urllib.parse.urlsplit(xensim.urls[0])
    for junk in (
        b"\x16\x03\x01\x02\x00nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        with socket.create_connection((str(parts.hostname), parts.port), timeout=10) as raw:
            raw.sendall(junk)
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert transfer(xensim.urls[0], "POST", "/", {}, b"nonsense")[0] == 400
    assert transfer(xensim.urls[0], "DELETE", "/", {})[0] == 404
    assert len(session.call("host.get_all")) == 3


def test_tls_is_verified_against_the_certificate(tmp_path: Path) -> None:
    """Its own certificate holds for each host's address; the key is for its owner only."""
    with running_xensim("--tls", "--latency", "0", "--state", str(tmp_path)) as running:
        assert running.certificate is not None
        context = ssl.create_default_context(cafile=running.certificate)
        assert len(Session(running.urls[0], context=context).call("host.get_all")) == 3
        with pytest.raises(ssl.SSLCertVerificationError):
            Session(running.urls[0], context=ssl.create_default_context())
        assert (tmp_path / "xensim-key.pem").stat().st_mode & 0o077 == 0


def test_pools_are_kept_across_a_kill(tmp_path: Path) -> None:
    """Killed and started again: same references, the VM runs, its disk has its bytes, operations under way have failed."""
    with running_xensim("--latency", "0", "--state", str(tmp_path)) as running:
        session = Session(running.urls[0])
        template = session.call("VM.get_by_name_label", "Other install media")[0]
        vm = session.call("VM.clone", template, "kept")
        session.call("VM.provision", vm)
        vdi = session.vdi(session.local_sr(0))
        session.call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0", "type": "Disk", "mode": "RW"})
        query = {"session_id": session.ref, "vdi": vdi}
        assert transfer(running.urls[0], "PUT", "/import_raw_vdi", query, b"bytes")[0] == 200
        session.call("VM.start", vm, False, False)
        running.control("POST", "/settings", {"latency": 100})
        task = session.call("Async.VM.pool_migrate", vm, session.call("host.get_all")[1], {})
        assert session.call("task.get_status", task) == "failure"
        task = session.call("Async.VM.clean_reboot", vm)
        record = session.call("VM.get_record", vm)
        assert list(record["current_operations"]) == [task]
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(30)
    with running_xensim("--latency", "0", "--state", str(tmp_path)) as running:
        session = Session(running.urls[0])
        record = session.call("VM.get_record", vm)
        assert (record["power_state"], record["name_label"], record["current_operations"]) == ("Running", "kept", {})
        assert session.call("task.get_status", task) == "failure"
        session.call("VM.hard_shutdown", vm)
        query = {"session_id": session.ref, "vdi": vdi}
        assert transfer(running.urls[0], "GET", "/export_raw_vdi", query)[2].startswith(b"bytes\0")
