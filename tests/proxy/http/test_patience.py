"""How long clients are waited for, on a clock of the test's own."""

from __future__ import annotations

import pytest

from proxy.http.limits import HttpLimits
from proxy.http.patience import Patience, Wait

LIMITS = HttpLimits(
    head_s=30, idle_s=75, body_idle_s=60, send_idle_s=50, rate_bytes_per_s_min=1000, rate_grace_s=120, linger_s=5
)


def seconds_until_over(wait: Wait, bytes_per_s: int, at_most_s: int = 1000) -> int | None:
    """How long a client that moves so much lasts; None: for ever."""
    patience = Patience()
    for second in range(at_most_s):
        if patience.is_over(wait, 1, second * bytes_per_s, 1.0, LIMITS):
            return second
    return None


@pytest.mark.parametrize(
    ("wait", "limit_s"),
    [(Wait.REQUEST, 75), (Wait.HEAD, 30), (Wait.BODY, 60), (Wait.SEND, 50), (Wait.LINGER, 5)],
)
def test_silence(wait: Wait, limit_s: int) -> None:
    """A silent client lasts as long as the limit of what is waited for."""
    assert seconds_until_over(wait, 0) == pytest.approx(limit_s, abs=1)


def test_trickles() -> None:
    """A head must come in time at any rate; a body or response must move at the minimum rate, after the grace."""
    assert seconds_until_over(Wait.HEAD, 1) == pytest.approx(30, abs=1)
    for wait in (Wait.BODY, Wait.SEND):
        assert seconds_until_over(wait, 1) == pytest.approx(120, abs=2)
        assert seconds_until_over(wait, 500) == pytest.approx(240, abs=2)
        assert seconds_until_over(wait, 1000) is None
        assert seconds_until_over(wait, 10**9) is None


def test_only_waiting_counts() -> None:
    """While the server works, nobody's time runs; silence starts afresh after it."""
    patience = Patience()
    for _ in range(1000):
        assert not patience.is_over(Wait.NOTHING, 1, 0, 1.0, LIMITS)
    for second in range(200):
        wait = Wait.BODY if second % 50 else Wait.NOTHING
        assert not patience.is_over(wait, 1, second * 2000, 1.0, LIMITS)


def test_each_request_starts_afresh() -> None:
    """What one request used up of its time is not held against the next."""
    patience = Patience()
    for request in range(100):
        for _ in range(20):
            assert not patience.is_over(Wait.HEAD, request, request * 100, 1.0, LIMITS)


def test_an_early_hurry_is_credit_but_silence_ends_it() -> None:
    """A client that sent much at first may pause, but not for longer than silence may last."""
    patience = Patience()
    assert not patience.is_over(Wait.BODY, 1, 0, 1.0, LIMITS)
    waited_s = 0
    while not patience.is_over(Wait.BODY, 1, 10**9, 1.0, LIMITS):
        waited_s += 1
    assert waited_s == pytest.approx(60, abs=1)
