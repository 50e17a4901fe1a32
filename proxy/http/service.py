"""What all connections of one server share, and what its owner plugs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from proxy.http.head import HeadParser, HttpError
from proxy.http.limits import HttpLimits
from proxy.http.message import Handler, Response
from proxy.http.responses import Stamps

ErrorRenderer: TypeAlias = Callable[[HttpError, str], Response]
"""Makes the response to a request that failed before, or beside, its handler: error and transaction id in."""


class AccessLog(Protocol):
    """Called once per response, on the hot path."""

    def __call__(
        self,
        method: str,
        target: bytes,
        status: int,
        received_bytes: int,
        sent_bytes: int,
        duration_s: float,
        transaction_id: str,
    ) -> None:
        """`received_bytes` and `sent_bytes` are counted on the wire, heads included; 499 is a client that went away."""


@dataclass(slots=True)
class Counters:
    """Running totals of one server."""

    requests: int = 0
    """Of connections that are closed; each counts its own while it lives."""
    refused: int = 0
    failed: int = 0
    expired: int = 0
    turned_away: int = 0


@dataclass(slots=True)
class Service:
    """What all connections of a server share."""

    handler: Handler
    limits: HttpLimits
    stamps: Stamps
    parser: HeadParser
    render_error: ErrorRenderer
    access_log: AccessLog | None
    counters: Counters
    stopping: bool = False
    """Responses from now on close their connections."""
