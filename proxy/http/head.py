"""The head of a request: bytes in, a checked `RequestHead` or an `HttpError` out.

Problem: an HTTP head is where clients and attackers are most inventive, and where two parsers that disagree (ours and a
load balancer's) let one client's bytes become another's request.

Idea: the connection finds the blank line and hands over exactly one whole head. llhttp, strict, parses it; then we check
what llhttp leaves to the application: versions, transfer codings, repeated headers, limits. What follows a head is never
given to the parser, so that bodies do not pass through it and one parser serves all connections of a process, one head
after the other. Whatever makes a head doubtful makes the connection close: nothing after it is believed.

Rejected: feeding the parser what arrives, as it arrives. Bodies would be copied by its callbacks, pipelined heads would
need a pause that httptools does not offer, and each connection would hold a parser while it idles.

Invariants:
- A head is complete after `parse`, or `HttpError` was raised and the parser is a fresh one.
- At most one of `content_length` and `chunked` is set, and both were spelled the one way that all parsers agree on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, cast

import httptools

from proxy.http.limits import HttpLimits

HEAD_END: Final = b"\r\n\r\n"

METHODS: Final = {
    method.encode(): method
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS", "PATCH", "TRACE", "MOVE", "REPORT")
}
"""Interned names of the usual methods; llhttp's others are decoded as they come."""

SINGLE_HEADERS: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-md5", b"range", b"expect")
)
"""Repeating one of these is an error: a joined value would mean something else to somebody."""

TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
METHOD_BYTES_MAX: Final = 32


class HttpError(Exception):
    """A request that the HTTP layer itself refuses. The message is fit for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class RequestHead(NamedTuple):
    """One request's head, checked."""

    method: str
    target: bytes
    """Begins with b"/", percent-encoded as received."""
    headers: dict[bytes, bytes]
    """Lower-case names; repeated ones joined with b", "."""
    keep_alive: bool
    is_http11: bool
    content_length: int | None
    """None where the request gives none: then there is no body, unless `chunked`."""
    chunked: bool
    expects_continue: bool
    is_plain: bool
    """Keep-alive and HTTP/1.1: the response, if it is plain too, can be sent without further ado."""


_new_head = cast("Callable[[type[RequestHead], tuple[object, ...]], RequestHead]", tuple.__new__)
"""Makes a `RequestHead` without passing through Python code: this is on the hot path."""


class HeadParser:
    """Parses one whole head after the other; keeps nothing between them."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._small_bytes = min(limits.header_bytes_max, 4 * limits.header_count_max, limits.request_line_bytes_max)
        """A head no longer than this can break none of the limits."""
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._complete = False

    # llhttp's callbacks.

    def on_url(self, target: bytes) -> None:
        """The request target, as it was sent."""
        self._target = target

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line; llhttp has checked its characters and removed leading white space."""
        name = name.lower()
        headers = self._headers
        if name in headers:
            if name in SINGLE_HEADERS:
                raise HttpError(400, f"the header {name.decode('latin-1')} is given more than once")
            headers[name] = headers[name] + b", " + value.rstrip()
        else:
            headers[name] = value.rstrip()

    def on_headers_complete(self) -> None:
        """The blank line was reached."""
        self._complete = True

    # Ours.

    def parse(self, head: bytes) -> RequestHead:
        """The head that `head` is, from the method to the blank line inclusive. Raises `HttpError`."""
        if len(head) > self._small_bytes:
            check_limits(head, self._limits)
        headers: dict[bytes, bytes] = {}
        self._headers = headers
        self._complete = False
        parser = self._parser
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # An offer to speak another protocol, which we are free to ignore; the parser is done for.
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError as error:
            self._parser = httptools.HttpRequestParser(self)
            return self._second_look(head, error)
        line_end = head.find(b"\r\n")
        is_http11 = head.endswith(b" HTTP/1.1", 0, line_end)
        if not is_http11 and not head.endswith(b" HTTP/1.0", 0, line_end):
            self._parser = httptools.HttpRequestParser(self)
            raise bad_version(head)
        if not self._complete:
            self._parser = httptools.HttpRequestParser(self)
            raise HttpError(400, "the request's head is incomplete")
        raw_method = parser.get_method()
        method = METHODS.get(raw_method) or method_name(raw_method)

        connection = headers.get(b"connection")
        keep_alive = is_http11 if connection is None else wants_keep_alive(connection, is_http11)
        content_length: int | None = None
        chunked = False
        if b"content-length" in headers:
            content_length = self._length(headers[b"content-length"])
        elif b"transfer-encoding" in headers:
            chunked = self._coding(headers[b"transfer-encoding"], is_http11)
        if not keep_alive or content_length or chunked:
            # It now waits for a body that it will not see.
            self._parser = httptools.HttpRequestParser(self)
        if is_http11 and b"host" not in headers:
            raise HttpError(400, "the Host header is missing")
        target = self._target
        if not target.startswith(b"/"):
            target = origin_form(target, headers)
        expect = headers.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            raise HttpError(417, "the only expectation that can be met is 100-continue")
        return _new_head(
            RequestHead,
            (
                method,
                target,
                headers,
                keep_alive,
                is_http11,
                content_length,
                chunked,
                expect is not None and is_http11,
                keep_alive and is_http11,
            ),
        )

    def _length(self, value: bytes) -> int:
        """Content-Length, which llhttp has checked already; trust, and check again what framing hangs on."""
        if not value.isdigit() or len(value) > 19:
            self._parser = httptools.HttpRequestParser(self)
            raise HttpError(400, "Content-Length must be one decimal number")
        length = int(value)
        if length > self._limits.body_bytes_max:
            self._parser = httptools.HttpRequestParser(self)
            raise HttpError(413, f"a request's body may have {self._limits.body_bytes_max} bytes at most")
        return length

    def _coding(self, value: bytes, is_http11: bool) -> bool:
        """True: the body is chunked. There is no other transfer coding that we take."""
        if value.lower() == b"chunked" and is_http11:
            return True
        self._parser = httptools.HttpRequestParser(self)
        if not is_http11:
            raise HttpError(400, "HTTP/1.0 has no Transfer-Encoding")
        raise HttpError(501, "the only transfer coding that is understood is chunked")

    def _second_look(self, head: bytes, error: httptools.HttpParserError) -> RequestHead:
        """What to tell the client, or, for a target with raw UTF-8 in it, the head of what it meant."""
        line_end = head.find(b"\r\n")
        if isinstance(error, httptools.HttpParserInvalidURLError) and not head[:line_end].isascii():
            # curl and others send what the user typed. It can mean only one thing: encode it, and parse again.
            quoted = b"".join(b"%%%02X" % byte if byte > 0x7F else bytes((byte,)) for byte in head[:line_end])
            return self.parse(quoted + head[line_end:])
        raise explain(head, error, self._headers)


def check_limits(head: bytes, limits: HttpLimits) -> None:
    """Raises `HttpError` 414 or 431 for a whole head in which something is too long or too many."""
    if head.count(b"\r\n") - 2 > limits.header_count_max:
        raise HttpError(431, f"a request may have {limits.header_count_max} headers at most")
    if len(head) <= limits.header_bytes_max and len(head) <= limits.request_line_bytes_max:
        return
    lines = head.split(b"\r\n")
    if len(lines[0]) > limits.request_line_bytes_max:
        raise HttpError(414, f"the request line may have {limits.request_line_bytes_max} bytes at most")
    if len(head) > limits.head_bytes_max:
        raise HttpError(431, f"the headers may have {limits.head_bytes_max} bytes together at most")
    if max(map(len, lines[1:])) > limits.header_bytes_max:
        raise HttpError(431, f"a header may have {limits.header_bytes_max} bytes at most")


def check_partial(buffer: bytes, limits: HttpLimits) -> None:
    """Raises `HttpError` for a head that has not ended yet and can't become a good one, so that it is not waited for."""
    if buffer.startswith(b"\x16\x03"):
        raise HttpError(400, "this port speaks plain HTTP, and this was the beginning of a TLS handshake")
    if buffer.count(b"\n") != buffer.count(b"\r\n"):
        raise HttpError(400, "lines must end in CR LF")
    line_end = buffer.find(b"\r\n")
    if line_end < 0:
        method = TOKEN.match(buffer)
        if (
            method is None
            or method.end() > METHOD_BYTES_MAX
            or buffer[method.end() : method.end() + 1] not in (b"", b" ")
        ):
            raise HttpError(400, "this does not begin like an HTTP request")
        if b"\0" in buffer:
            raise HttpError(400, "a NUL in the request line")
    elif b" HTTP/" not in buffer[:line_end]:
        raise bad_version(buffer)
    if (line_end if line_end >= 0 else len(buffer)) > limits.request_line_bytes_max:
        raise HttpError(414, f"the request line may have {limits.request_line_bytes_max} bytes at most")
    if len(buffer) - buffer.rfind(b"\n") > limits.header_bytes_max and line_end >= 0:
        raise HttpError(431, f"a header may have {limits.header_bytes_max} bytes at most")
    if len(buffer) > limits.head_bytes_max:
        raise HttpError(431, f"the headers may have {limits.head_bytes_max} bytes together at most")


def wants_keep_alive(connection: bytes, is_http11: bool) -> bool:
    """What a Connection header asks for; `close` wins over all else."""
    tokens = [token.strip() for token in connection.lower().split(b",")]
    if b"close" in tokens:
        return False
    return is_http11 or b"keep-alive" in tokens


def origin_form(target: bytes, headers: dict[bytes, bytes]) -> bytes:
    """The path and query of an absolute-form target, whose authority replaces the Host header (RFC 9112, 3.2.2)."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise HttpError(400, "the request target must be a path, or a whole http URL")
    path_start = min((index for index in (rest.find(b"/"), rest.find(b"?")) if index >= 0), default=len(rest))
    authority, path = rest[:path_start], rest[path_start:]
    if not authority:
        raise HttpError(400, "the request target names no host")
    headers[b"host"] = authority.rpartition(b"@")[2]
    return path if path.startswith(b"/") else b"/" + path


def method_name(raw_method: bytes) -> str:
    """The name of a method that llhttp knows and that is not among the usual ones."""
    if raw_method == b"CONNECT":
        raise HttpError(501, "this server is no proxy for other hosts")
    return raw_method.decode("ascii")


def bad_version(head: bytes) -> HttpError:
    """The error for a request line that does not end in HTTP/1.0 or HTTP/1.1."""
    line = head[: head.find(b"\r\n")]
    if line.startswith(b"PRI * HTTP/2"):
        return HttpError(505, "HTTP/2 is not spoken here; use HTTP/1.1")
    if b" HTTP/" in line:
        return HttpError(505, "the HTTP versions spoken here are 1.0 and 1.1")
    return HttpError(400, "the request line must end in HTTP/1.1")


def explain(head: bytes, error: httptools.HttpParserError, headers: dict[bytes, bytes]) -> HttpError:
    """What to answer to a head that llhttp refused."""
    cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
    if isinstance(cause, HttpError):
        return cause
    line = head[: head.find(b"\r\n")]
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        method = line.partition(b" ")[0]
        if line.endswith((b" HTTP/1.1", b" HTTP/1.0")) and TOKEN.fullmatch(method) and len(method) <= METHOD_BYTES_MAX:
            return HttpError(501, f"the method {method.decode()} is not known here")
        return HttpError(400, "this is not an HTTP request")
    if isinstance(error, httptools.HttpParserInvalidURLError):
        return HttpError(400, "the request target holds a character that must be percent-encoded")
    if line.startswith(b"PRI ") or "HTTP version" in str(error):
        return bad_version(head)
    if "invalid `Transfer-Encoding`" in str(error) and b"content-length" not in headers:
        return HttpError(501, "the only transfer coding that is understood is chunked")
    return HttpError(400, f"the request's head is malformed: {error}")
