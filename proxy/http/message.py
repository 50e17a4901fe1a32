"""Requests and responses as the dialects see them.

Problem: the hot path (a 4 KiB GET) has some tens of microseconds for everything, and two dialects, a health check and a
metrics page share one server.

Idea: a request is a plain object with slots, made once per request by the connection; header names are lower-case bytes,
so that a look-up is one dictionary access; the path stays percent-encoded until the dialect that owns its meaning (and
whose signature may cover the raw form) decodes it. A response is status, headers and either bytes or a stream.

Invariants:
- `Request.headers` holds each name once. Repeated headers are joined with b", "; those that must not be repeated
  (Host, Content-Length, Transfer-Encoding, Authorization, Content-MD5, Range) made the request a 400 already.
- `Body.read()` never gives more bytes than Content-Length says, and raises rather than end early.
- A stream given as a response's body is always closed: at its end, or when the client goes away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

HeaderList: TypeAlias = list[tuple[bytes, bytes]]


class BodyReader(Protocol):
    """A request's body: read it to its end or leave it; the connection sees to the rest."""

    @property
    def length(self) -> int | None:
        """Content-Length; None when the body is chunked; 0 when there is none."""

    async def read(self) -> bytes:
        """The next piece, of any size up to 256 KiB; b"" at the end, and again after it.

        The first call sends 100 Continue if the client waits for it. Raises `ClientDisconnected` where the connection
        ends early, `MalformedBody` for broken chunked framing, `BodyTimeout` when the client is silent for too long.
        """


class BodyError(Exception):
    """The request's body did not arrive whole. The client's fault, or its network's."""


class ClientDisconnected(BodyError):
    """The connection ended before the body did. There is nobody to answer."""


class MalformedBody(BodyError):
    """Chunked framing that makes no sense: answer 400 and close."""


class BodyTooLarge(BodyError):
    """More came than a body may have: answer 413 and close."""


class BodyTimeout(BodyError):
    """The client sent nothing for as long as it may: answer 408 and close."""


class Request:
    """One HTTP request, its head parsed and its body unread."""

    __slots__ = ("body", "client", "headers", "method", "path", "query", "scheme", "target", "transaction_id")

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: dict[bytes, bytes],
        body: BodyReader,
        client: str,
        transaction_id: str,
        scheme: str = "http",
    ) -> None:
        self.method = method
        self.target = target
        """As received: path and query, percent-encoded. Always begins with b"/" (absolute-form is reduced to that)."""
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        """Lower-case names to values, surrounding white space removed."""
        self.body = body
        self.client = client
        """The peer's address, for logs."""
        self.transaction_id = transaction_id
        """Goes into the logs and back to the client (X-Trans-Id, x-amz-request-id)."""
        self.scheme = scheme


class ResponseStream(Protocol):
    """A response body that is produced as it is sent."""

    async def read(self) -> bytes | memoryview:
        """The next piece; empty at the end. The buffer may be reused once read() is called again."""

    async def aclose(self) -> None:
        """Called once, always: at the end, on error, when the client is gone."""


class Response:
    """Status, headers, and a body that is bytes or a stream.

    The connection adds Date, X-Trans-Id, Connection, and Content-Length (or chunked framing when `length` is None and the
    body is a stream). For HEAD, 204 and 304 no body is sent; a Content-Length among the headers then stays as it is.
    """

    __slots__ = ("body", "close", "headers", "length", "status")

    def __init__(
        self,
        status: int,
        headers: HeaderList | None = None,
        body: bytes | memoryview | ResponseStream = b"",
        length: int | None = None,
        close: bool = False,
    ) -> None:
        self.status = status
        self.headers: HeaderList = headers if headers is not None else []
        self.body = body
        self.length = length if length is not None or not isinstance(body, (bytes, memoryview)) else len(body)
        """Of the body as sent, in bytes."""
        self.close = close
        """Close the connection after this response."""


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def parse_query(query: bytes) -> Mapping[str, str]:
    """A query string's parameters, percent-decoded, `+` as a space; a name without `=` maps to "".

    Of a repeated name the last counts. Bytes that are no UTF-8 are kept as surrogates, for the dialect to refuse.
    """
    from urllib.parse import unquote_plus

    parameters: dict[str, str] = {}
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            parameters[unquote_plus(name.decode("latin-1"), errors="surrogateescape")] = unquote_plus(
                value.decode("latin-1"), errors="surrogateescape"
            )
    return parameters
