"""The front desk."""

from __future__ import annotations

import pytest

from proxy.http.message import Request, Response
from proxy.metrics import Metrics
from proxy.server import ProxyServer, host_of
from proxy.user_store import BytesBody


async def swift(request: Request) -> Response:
    """Stands where the Swift dialect stands."""
    return Response(200, [], b"swift")


async def s3(request: Request) -> Response:
    """Stands where the S3 dialect stands."""
    return Response(200, [], b"s3")


def request(
    target: bytes, method: str = "GET", headers: dict[bytes, bytes] | None = None, client: str = "127.0.0.1:5"
) -> Request:
    """A request without a body."""
    return Request(method, target, headers or {}, BytesBody(b""), client, "tx1")


@pytest.mark.parametrize(
    ("target", "headers", "body"),
    [
        (b"/v1/AUTH_a/c/o", {}, b"swift"),
        (b"/auth/v1.0", {}, b"swift"),
        (b"/info", {}, b"swift"),
        (b"/", {}, b"s3"),
        (b"/bucket/key?list-type=2", {}, b"s3"),
        (b"/v1", {}, b"s3"),
        (b"/v1/key", {b"authorization": b"AWS4-HMAC-SHA256 Credential=x"}, b"s3"),
        (b"/metrics", {b"authorization": b"AWS4-HMAC-SHA256 Credential=x"}, b"s3"),
        (b"/info?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0", {}, b"s3"),
        (b"/v1/AUTH_a/c/o?temp_url_sig=0", {}, b"swift"),
        (b"/v1/AUTH_a/c/o", {b"authorization": b"Basic eDp5"}, b"swift"),
    ],
)
async def test_who_answers(target: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
    """The path decides, unless there is an S3 signature."""
    server = ProxyServer(swift, s3, Metrics("w1"))
    assert (await server.handle(request(target, headers=headers))).body == body


async def test_healthcheck() -> None:
    """OK while all is well, 503 and the reason while it is not."""
    server = ProxyServer(swift, s3, Metrics("w1"))
    response = await server.handle(request(b"/healthcheck"))
    assert (response.status, response.body) == (200, b"OK")
    ill = ProxyServer(swift, s3, Metrics("w1"), healthy=lambda: "no devices")
    response = await ill.handle(request(b"/healthcheck"))
    assert (response.status, response.body) == (503, b"no devices\n")
    assert (await server.handle(request(b"/healthcheck", "POST"))).status == 405


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ("127.0.0.1:5", 200),
        ("192.168.7.8:5", 200),
        ("[::1]:5", 200),
        ("[fe80::1%eth0]:5", 200),
        ("[::ffff:10.0.0.1]:5", 200),
        ("unix", 200),
        ("8.8.8.8:5", 403),
        ("[2001:db8::1]:5", 403),
        ("rubbish", 403),
    ],
)
async def test_metrics_are_for_private_networks(client: str, status: int) -> None:
    """Whoever is on the internet does not learn how busy a cluster is."""
    server = ProxyServer(swift, s3, Metrics("w1"))
    assert (await server.handle(request(b"/metrics", client=client))).status == status


async def test_responses_are_counted_and_logged() -> None:
    """What the HTTP server observes ends in the metrics and in the access log."""
    metrics = Metrics("w1")
    lines = []
    server = ProxyServer(swift, s3, metrics, access_log=lambda *line: lines.append(line))
    server.observe("GET", b"/v1/A/c/o", 200, 10, 100, 0.002, "tx1")
    server.observe("GET", b"/v1/A/c/o", 503, 10, 100, 0.002, "tx2")
    page = await metrics.page()
    assert b'status="503"' in page
    assert [line[2] for line in lines] == [200, 503]


def test_addresses_of_clients() -> None:
    """The port goes, the brackets too."""
    assert [host_of(client) for client in ("1.2.3.4:5", "[::1]:5", "::1", "unix")] == ["1.2.3.4", "::1", "::1", "unix"]
