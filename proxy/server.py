"""The proxy's front desk: which dialect a request is for, and the two pages that are nobody's dialect.

    /healthcheck        200 while this worker can serve, else 503 with the reason
    /metrics            what the workers of this machine have done (see metrics); for clients of private networks
    /v1/…  /auth/…  /v1.0  /info     Swift
    all else            S3

A request that carries an S3 signature is S3's whatever its path, so a bucket may be called `v1` or `info`.

Invariant: the hot path pays three tests for all this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Final

import structlog

from proxy.http.message import Handler, Request, Response
from proxy.http.service import AccessLog
from proxy.metrics import Metrics, dialect_of

log = structlog.get_logger("proxy.server")

PRIVATE_NETWORKS: Final = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)
"""Who may read /metrics unless the settings say otherwise: it tells how busy a cluster is, and by whom."""
_SIGNED = (b"X-Amz-Signature=", b"X-Amz-Algorithm=", b"AWSAccessKeyId=")
_TEXT = (b"Content-Type", b"text/plain; charset=utf-8")
_EXPOSITION = (b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8")


class ProxyServer:
    """Chooses who answers. Give `handle` to the HttpServer as its handler and `observe` as its access log.

    `healthy` gives the reason why this worker should get no requests, or "" while it should. `access_log` is called for
    every response, if it is given; what failed on our side is logged in any case.
    """

    def __init__(
        self,
        swift: Handler,
        s3: Handler,
        metrics: Metrics,
        *,
        healthy: Callable[[], str] = lambda: "",
        access_log: AccessLog | None = None,
        metrics_networks: Sequence[str] = PRIVATE_NETWORKS,
    ) -> None:
        self._swift = swift
        self._s3 = s3
        self._metrics = metrics
        self._healthy = healthy
        self._access_log = access_log
        self._metrics_networks = tuple(ip_network(network) for network in metrics_networks)

    async def handle(self, request: Request) -> Response:
        """Answer a request. A `Handler`."""
        authorization = request.headers.get(b"authorization")
        if authorization is not None and authorization.startswith(b"AWS"):
            return await self._s3(request)
        if request.query and any(mark in request.query for mark in _SIGNED):
            return await self._s3(request)
        dialect = dialect_of(request.target)
        if dialect == "swift":
            return await self._swift(request)
        if dialect == "own":
            return await self._own_page(request)
        return await self._s3(request)

    def observe(
        self,
        method: str,
        target: bytes,
        status: int,
        received_bytes: int,
        sent_bytes: int,
        duration_s: float,
        transaction_id: str,
    ) -> None:
        """Count a response, and log it where that is wanted. An `AccessLog`."""
        self._metrics.record(method, target, status, received_bytes, sent_bytes, duration_s, transaction_id)
        if status >= 500:
            path = target.partition(b"?")[0].decode("latin-1")
            log.warning(
                "request failed",
                method=method,
                path=path,
                status=status,
                duration_ms=round(duration_s * 1000, 3),
                transaction_id=transaction_id,
            )
        if self._access_log is not None:
            self._access_log(method, target, status, received_bytes, sent_bytes, duration_s, transaction_id)

    async def _own_page(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, [_TEXT, (b"Allow", b"GET, HEAD")], b"GET or HEAD\n")
        if request.path.rstrip(b"/") == b"/healthcheck":
            reason = self._healthy()
            return Response(503, [_TEXT], f"{reason}\n".encode()) if reason else Response(200, [_TEXT], b"OK")
        if not self._may_read_metrics(request.client):
            return Response(403, [_TEXT], b"metrics are shown to private networks only\n")
        return Response(200, [_EXPOSITION], await self._metrics.page())

    def _may_read_metrics(self, client: str) -> bool:
        if client == "unix":
            return True
        try:
            address = ip_address(host_of(client))
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._metrics_networks)


def host_of(client: str) -> str:
    """The address of a client that is named as "1.2.3.4:5" or "[::1]:5"."""
    host = client.rpartition(":")[0] if client.count(":") == 1 or client.startswith("[") else client
    return host.strip("[]").partition("%")[0]
