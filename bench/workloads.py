"""What is measured, as data: every workload, and the suites that put them together.

A workload is one kind of request (or a mix) on names that are drawn in one way, at one number of connections. It says what
must be there before (`Names`), so that the filling is done once for all workloads that share it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
SIZES: Final = {"4 KiB": 4 * KIB, "64 KiB": 64 * KIB, "1 MiB": MIB, "64 MiB": 64 * MIB}
CONNECTIONS: Final = (1, 8, 32, 128)
IN_S3: Final = "S3 "
"""What the title of a workload in S3's dialect begins with."""


@dataclass(frozen=True, slots=True)
class Names:
    """Objects that are there before a workload reads or deletes them: `o00000000`, … in a container of their own."""

    container: str
    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing to measure."""

    title: str
    method: str
    """GET, HEAD, PUT, DELETE, LIST (pages of 1,000 names) or MIX (70 % GET, 20 % PUT, 10 % DELETE)."""
    connections: int
    size_bytes: int = 0
    names: Names | None = None
    """What it reads; DELETE makes its own."""
    draw: str = "uniform"
    """uniform, hot (nine of ten requests go to one of a hundred names), or next (each once, in order)."""
    dialect: str = "swift"
    listed: int = 0
    """LIST: names in the container."""
    condition: str = ""
    """node-dead or rebalancing: what else is the matter meanwhile."""

    @property
    def moved_bytes(self) -> int:
        """Object bytes a request, for MB/s; 0 where that says nothing."""
        return self.size_bytes if self.method in ("GET", "PUT") else 0


def names_of(size_text: str) -> Names:
    """The objects of a size that GET and HEAD read: few where they are large, so that they are read from memory."""
    size_bytes = SIZES[size_text]
    count = 10_000 if size_bytes <= 4 * KIB else 2_000 if size_bytes <= 64 * KIB else 64 if size_bytes <= MIB else 4
    return Names("read-" + size_text.replace(" ", "").lower(), count, size_bytes)


def of_size(method: str, size_text: str, connections: int) -> Workload:
    """GET, HEAD, PUT or DELETE of objects of one size."""
    title = f"{method} {size_text} ({connections})"
    names = names_of(size_text) if method in ("GET", "HEAD") else None
    draw = "uniform" if names else "next"
    return Workload(title, method, connections, SIZES[size_text], names, draw)


def pages(listed: int, connections: int = 4) -> Workload:
    """Pages of 1,000 names, each from a place drawn at random."""
    return Workload(f"page of 1,000 of {listed:,} names ({connections})", "LIST", connections, listed=listed)


def in_s3(workload: Workload) -> Workload:
    """The same with SigV4."""
    return replace(workload, dialect="s3", title=IN_S3 + workload.title)


def with_s3(workloads: Iterable[Workload], only_s3: Collection[str]) -> list[Workload]:
    """Where systems take part that speak S3 alone, each workload in Swift's dialect is followed by the same in S3, for all.

    So they are compared with what the others do in S3, and no ratio is of two dialects.
    """
    found: dict[str, Workload] = {}
    for workload in workloads:
        found.setdefault(workload.title, workload)
        if only_s3 and workload.dialect == "swift":
            twin = in_s3(workload)
            found.setdefault(twin.title, twin)
    return list(found.values())


GET4K: Final = of_size("GET", "4 KiB", 32)
PUT4K: Final = of_size("PUT", "4 KiB", 32)

COMPARED: Final = (
    PUT4K,
    GET4K,
    of_size("HEAD", "4 KiB", 32),
    of_size("DELETE", "4 KiB", 32),
    pages(100_000),
    of_size("PUT", "1 MiB", 8),
    of_size("GET", "1 MiB", 8),
    of_size("PUT", "64 MiB", 2),
    of_size("GET", "64 MiB", 2),
    of_size("PUT", "4 KiB", 1),
    of_size("GET", "4 KiB", 1),
)
"""The cases that the comparison with peers is made of."""

S3: Final = tuple(in_s3(workload) for workload in (PUT4K, GET4K, of_size("HEAD", "4 KiB", 32), pages(100_000)))

CONDITIONS: Final = (
    replace(GET4K, title="GET 4 KiB hot keys (32)", draw="hot"),
    Workload("mixed 70/20/10 4 KiB (32)", "MIX", 32, 4 * KIB, names_of("4 KiB")),
    replace(GET4K, title="GET 4 KiB, a node dead (32)", condition="node-dead"),
    replace(PUT4K, title="PUT 4 KiB, a node dead (32)", condition="node-dead"),
    of_size("DELETE", "4 KiB", 128),
    replace(GET4K, title="GET 4 KiB, a zone joins (32)", condition="rebalancing"),
    replace(PUT4K, title="PUT 4 KiB, a zone joins (32)", condition="rebalancing"),
)

MATRIX: Final = tuple(
    of_size(method, size, connections)
    for size in SIZES
    for method in ("PUT", "GET", "HEAD", "DELETE")
    for connections in CONNECTIONS
    if size != "64 MiB" or connections <= {"PUT": 8, "DELETE": 1}.get(method, 128)
)
"""Every size, method and number of connections, but for 64 MiB: not more PUTs at a time than the generator has memory for
bodies, nor more DELETEs than the disk has room for what is to be deleted."""

SUITES: Final[dict[str, tuple[Workload, ...]]] = {
    "quick": (PUT4K, GET4K),
    "peers": COMPARED,
    "standard": (*COMPARED, *S3, *CONDITIONS),
    "matrix": MATRIX,
    "full": tuple({workload.title: workload for workload in (*COMPARED, *S3, *CONDITIONS, *MATRIX)}.values()),
    "many-names": (pages(10_000_000),),
}
