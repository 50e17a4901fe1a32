"""A run's requests, from a workload: heads in the order in which the generator sends them, and what stands behind them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from bench.dialects import Dialect
from bench.workloads import Workload

PAGE: Final = 1000
HEADS_MAX: Final = 20_000
"""Heads of requests that may be sent again and again: more would only fill the generator's memory."""
HOT_SHARE: Final = 0.9
HOT_COUNT: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What the generator sends."""

    heads: list[bytes]
    with_body: list[bool]
    body_bytes: int
    once: bool
    """Each head once, in order, and then stop; else again and again, in order."""


def object_name(number: int) -> str:
    """The name of an object of a filled container."""
    return f"o{number:08d}"


def listed_name(number: int) -> str:
    """The name of an object of a listed container."""
    return f"n{number:08d}"


def make_plan(workload: Workload, dialect: Dialect, *, container: str, first: int, count: int, seed: int = 7) -> Plan:
    """The requests of one run: `count` names from number `first` on where each may be used but once."""
    rng = random.Random(seed)
    method, size = workload.method, workload.size_bytes
    if method == "LIST":
        last_page = max(workload.listed - PAGE, 0)
        markers = [listed_name(rng.randint(0, last_page)) for _ in range(2_000)]
        heads = [dialect.head("GET", container, query=dialect.page_query(marker, PAGE)) for marker in markers]
        return Plan(heads, [False] * len(heads), 0, once=False)
    if method in ("PUT", "DELETE"):
        body = size if method == "PUT" else 0
        names = [object_name(number) for number in range(first, first + count)]
        heads = [dialect.head(method, container, name, body_bytes=body) for name in names]
        return Plan(heads, [method == "PUT"] * count, body, once=True)
    assert workload.names is not None
    drawn = _draw(workload, rng)
    if method == "MIX":
        return _mix(dialect, workload, drawn, container, rng)
    heads = [dialect.head(method, workload.names.container, object_name(number)) for number in drawn]
    return Plan(heads, [False] * len(heads), 0, once=False)


def _draw(workload: Workload, rng: random.Random) -> list[int]:
    assert workload.names is not None
    there = workload.names.count
    if workload.draw == "hot":
        hot = [rng.randrange(there) for _ in range(HOT_COUNT)]
        return [rng.choice(hot) if rng.random() < HOT_SHARE else rng.randrange(there) for _ in range(HEADS_MAX)]
    return [rng.randrange(there) for _ in range(min(HEADS_MAX, 20 * there))]


def _mix(dialect: Dialect, workload: Workload, drawn: list[int], container: str, rng: random.Random) -> Plan:
    """70 % GET of what is there, 20 % PUT of names of its own, 10 % DELETE of those, each after its PUT."""
    assert workload.names is not None
    heads, with_body = [], []
    made: list[int] = []
    for index, number in enumerate(drawn):
        dice = rng.random()
        if dice < 0.7:
            heads.append(dialect.head("GET", workload.names.container, object_name(number)))
            with_body.append(False)
        elif dice < 0.9 or len(made) < 1_000:
            heads.append(dialect.head("PUT", container, object_name(index), body_bytes=workload.size_bytes))
            with_body.append(True)
            made.append(index)
        else:
            # Of those that were written long before, so that no other connection's PUT of it is still under way.
            gone = made.pop(rng.randrange(len(made) - 500))
            heads.append(dialect.head("DELETE", container, object_name(gone)))
            with_body.append(False)
    return Plan(heads, with_body, workload.size_bytes, once=False)
