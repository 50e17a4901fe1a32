"""What a client may cost: every bound of the HTTP server in one place.

Each bound answers one way in which a client could make the server hold or do more than its share: long things (request
lines, headers, bodies), many things (headers, connections, pipelined requests) and slow things (idle connections, heads
and bodies that trickle, responses that nobody reads). What is beyond a bound is answered with the status that the field's
documentation names, and the connection closes.

Rejected: one overall time limit per request. A 5 GiB upload over a slow line is legitimate and takes an hour; what is
not legitimate is silence, or a rate that no real line has. So times bound silence and rates bound trickling.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on what one client may send, hold and wait for. The defaults suit a public S3 and Swift endpoint."""

    request_line_bytes_max: int = 16 * KIB
    """Method, target and version. Beyond: 414. A 1,024-byte key, percent-encoded, is 3 KiB; presigned queries add 2 KiB."""
    header_count_max: int = 200
    """Header lines of one request. Beyond: 431."""
    header_bytes_max: int = 16 * KIB
    """One header line. Beyond: 431."""
    head_bytes_max: int = 64 * KIB
    """Request line and all headers together. Beyond: 431."""
    body_bytes_max: int = 6 * 1024 * MIB
    """A request's body as sent. Beyond: 413. Above the 5 GiB of an object, so that a dialect gets to say it its own way."""
    connection_count_max: int = 8192
    """Connections at once. Beyond: 503, and closed."""

    head_s: float = 30.0
    """From a request's first byte (or a connection's beginning) to the end of its head. Beyond: 408."""
    idle_s: float = 75.0
    """Between requests. Beyond: closed without a word, as clients expect of a keep-alive connection."""
    body_idle_s: float = 60.0
    """Without one byte of a body that is waited for. Beyond: 408."""
    send_idle_s: float = 60.0
    """Without one byte of the response taken. Beyond: reset."""
    rate_bytes_per_s_min: int = 1024
    """Of a body or a response, over the time spent waiting for the client (beyond `rate_grace_s`)."""
    rate_grace_s: float = 120.0
    """Waiting that is allowed before the minimum rate counts."""

    drain_bytes_max: int = 256 * KIB
    """Of a body that the handler left unread: up to this it is read and dropped, and the connection lives on."""
    linger_bytes_max: int = 64 * MIB
    """Read and dropped after the last response of a connection, so that the client gets to read that response."""
    linger_s: float = 5.0
    """For as long at most."""

    sweep_interval_s: float = 1.0
    """How often slow connections are looked for; the precision of all the times above."""

    def __post_init__(self) -> None:
        """Refuse bounds that no request could meet."""
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")
        if self.head_bytes_max < max(self.request_line_bytes_max, self.header_bytes_max):
            raise ValueError("head_bytes_max must hold a whole request line and a whole header")
