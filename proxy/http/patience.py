"""How long a client is waited for: one connection's sweep-by-sweep judgement, pure.

Problem: a client that is silent, or that sends or takes a byte a minute, must not hold memory and places for ever. A
timer per read would cost every good client some microseconds for the sake of the few bad ones.

Idea: connections note only what they wait for, and only when they really have to wait; they count the bytes that they
moved anyway. A sweep, once a second, compares each connection with what it saw of it last time and adds up the waiting.

Invariants: only waiting for the client counts, never the time that the server itself takes; a connection that waits for
nothing is never judged.
"""

from __future__ import annotations

from enum import IntEnum

from proxy.http.limits import HttpLimits


class Wait(IntEnum):
    """What a connection waits for."""

    NOTHING = 0
    """Not for the client: it is being served."""
    REQUEST = 1
    """For the first byte of a next request."""
    HEAD = 2
    """For the rest of a request's head."""
    BODY = 3
    """For more of a request's body."""
    SEND = 4
    """For room to send more of a response."""
    LINGER = 5
    """For the client to close, after the last response."""


class Patience:
    """What is remembered of one connection between two sweeps."""

    __slots__ = ("_moved_bytes", "_requests", "_silent_s", "_start_bytes", "_wait", "_waited_s")

    def __init__(self) -> None:
        self._wait = Wait.NOTHING
        self._requests = -1
        self._moved_bytes = 0
        self._start_bytes = 0
        """Moved before the present kind of waiting, within the present request, began."""
        self._waited_s = 0.0
        self._silent_s = 0.0

    def is_over(self, wait: Wait, requests: int, moved_bytes: int, elapsed_s: float, limits: HttpLimits) -> bool:
        """True: the client has been waited for long enough.

        `requests` and `moved_bytes` are the connection's counts so far; `elapsed_s` is the time since the last sweep.
        """
        if wait is Wait.NOTHING:
            # Served at the moment; if the same kind of waiting comes again, its count goes on.
            self._silent_s = 0.0
            return False
        if wait is not self._wait or requests != self._requests:
            self._wait = wait
            self._requests = requests
            self._start_bytes = self._moved_bytes
            self._waited_s = 0.0
            self._silent_s = 0.0
        if moved_bytes != self._moved_bytes:
            self._silent_s = 0.0
            self._moved_bytes = moved_bytes
        else:
            self._silent_s += elapsed_s
        self._waited_s += elapsed_s
        if wait is Wait.REQUEST:
            return self._silent_s > limits.idle_s
        if wait is Wait.HEAD:
            return self._waited_s > limits.head_s
        if wait is Wait.LINGER:
            return self._waited_s > limits.linger_s
        if self._silent_s > (limits.body_idle_s if wait is Wait.BODY else limits.send_idle_s):
            return True
        earned_s = (moved_bytes - self._start_bytes) / limits.rate_bytes_per_s_min
        return self._waited_s > limits.rate_grace_s + earned_s
