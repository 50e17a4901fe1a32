"""Which containers of one device changed since the last look, or have to be compared anew.

Problem: a look every second must cost next to nothing on a device with a hundred thousand containers of which three changed,
and on one with ten containers.

Idea: a device keeps digests of all its catalogs, which change with every row. While there are few containers the watch
simply reads them all (3 us each, straight from the device's index). From `DIGESTS_FROM` on it asks the device for its
digests by the first eight bits of the hash, and reads only those parts whose digest is another than at the last look. A part
is read once more at the look after, so that nothing depends on whether digest or reader was a moment ahead.

A container's row can become wrong while the container stays as it is: a proxy that was cut off listed it at a handoff, as
empty, and replication brings that row home as the newest, long after the right one was written. So one part after another
also counts as changed by the clock, each once in `again_s`.

Rejected: a queue of changes kept by the device (a second truth, to be kept consistent through crashes); watching the rows
as well (the digest of an account changes with any of its rows, so that each report would have them all read).

What is seen is kept as one number a container: about 150 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeAlias

import trio

from replicator.pace import Pace
from replicator.peers import Peer
from storage_node.operations import Catalog, FoundDigests, FoundEntries, GetDigests, ListEntries, Space, Status

PAGE: Final = 256
"""Containers read between two checkpoints: about a millisecond."""
DIGESTS_FROM: Final = 2_000
PART_BITS: Final = 8
"""A part is known by the first byte of its hashes."""

Digests: TypeAlias = tuple[bytes, ...]
Part: TypeAlias = tuple[bytes, bytes | None]
"""Hashes from the first (included) to the second (not included; None: the end)."""
EVERYTHING: Final[Part] = (bytes(16), None)


class ContainerWatch:
    """Looks at one device's containers, again and again.

    `pace` bounds how many are read in a second. `note` is told the key of each container that is new or changed, and of
    every one once in `again_s`; it answers False to have it told again at the next look. To be made inside trio.
    """

    def __init__(self, peer: Peer, pace: Pace, note: Callable[[bytes], bool], again_s: float) -> None:
        self.compared = 0
        """Containers read since the start."""
        self._peer = peer
        self._pace = pace
        self._note = note
        self._again_s = again_s
        self._looked_s = trio.current_time()
        """When the last look began that was carried through."""
        self._refused: set[int] = set()
        """Parts with containers that were not noted at the last look."""
        self._seen: dict[bytes, int] = {}
        self._digests: tuple[Digests, Digests] | None = None
        """Of the last look and the one before it."""

    async def look(self) -> None:
        """Find what changed. A device that is away keeps what was seen of it."""
        began_s = trio.current_time()
        due = due_parts(self._looked_s, began_s, self._again_s)
        refused, self._refused = self._refused, set()
        for part in await self._parts(due | refused):
            if not await self._read(part, due):
                self._digests = None
                return
        self._looked_s = began_s

    async def _parts(self, wanted: Collection[int]) -> Sequence[Part]:
        """What has to be read: those parts, and what changed."""
        if len(self._seen) < DIGESTS_FROM:
            self._digests = None
            return (EVERYTHING,)
        answer = await self._peer.call(GetDigests(Space.CONTAINER, 0, 0, PART_BITS))
        if not isinstance(answer, FoundDigests) or answer.status != Status.FOUND:
            self._digests = None
            return (EVERYTHING,)
        before, self._digests = self._digests, (answer.digests, self._digests[0] if self._digests else ())
        if before is None:
            return (EVERYTHING,)
        return changed_parts(answer.digests, *before, wanted)

    async def _read(self, part: Part, due: Collection[int]) -> bool:
        """Compare the containers of a part; False when the device did not answer."""
        start, end = part
        while True:
            answer = await self._peer.call(ListEntries(Space.CONTAINER, start, end, PAGE))
            if not isinstance(answer, FoundEntries) or answer.status != Status.FOUND:
                return False
            for name_hash, key, entry in answer.entries:
                if not isinstance(entry, Catalog) or not is_listed(key):
                    continue
                state = fingerprint(entry)
                if self._seen.get(name_hash) != state or name_hash[0] in due:
                    if self._note(key):
                        self._seen[name_hash] = state
                    else:
                        self._seen.pop(name_hash, None)
                        self._refused.add(name_hash[0])
            self.compared += len(answer.entries)
            await self._pace.take(len(answer.entries))
            if not answer.truncated or not answer.entries:
                return True
            start = successor(answer.entries[-1].hash)


def due_parts(looked_s: float, now_s: float, again_s: float) -> frozenset[int]:
    """The parts, by index, whose turn came after `looked_s` and has come by `now_s`: each has one in every `again_s`."""
    count: int = 1 << PART_BITS
    first, last = (int(at_s / again_s * count) for at_s in (looked_s, now_s))
    return frozenset(turn % count for turn in range(max(first, last - count) + 1, last + 1))


def changed_parts(now: Digests, last: Digests, earlier: Digests, due: Collection[int] = ()) -> list[Part]:
    """The parts that are due, or whose digest changed between the last two looks, or since: neighbours in one piece.

    Where there is no earlier look every part counts as changed.
    """
    if len(now) != len(last) or len(now) != len(earlier):
        return [EVERYTHING]
    parts: list[Part] = []
    for index, digest in enumerate(now):
        if digest == last[index] == earlier[index] and index not in due:
            continue
        start = part_start(index, len(now))
        end = part_start(index + 1, len(now)) if index + 1 < len(now) else None
        if parts and parts[-1][1] == start:
            start = parts.pop()[0]
        parts.append((start, end))
    return parts


def part_start(index: int, count: int) -> bytes:
    """The first hash of the part with this index, of `count` (a power of two) equal ones."""
    return (index * ((1 << 128) // count)).to_bytes(16, "big")


def split_container_key(key: bytes) -> tuple[bytes, bytes]:
    """b"/account/container" -> (b"/account", b"container")."""
    account, _, name = key[1:].partition(b"/")
    return b"/" + account, name


def is_listed(container_key: bytes) -> bool:
    """Whether a container is one that its account lists: internal ones, whose names begin with NUL, are not."""
    _, name = split_container_key(container_key)
    return bool(name) and not name.startswith(b"\x00")


def fingerprint(catalog: Catalog) -> int:
    """A number that changes when what the account's row should say may have changed."""
    return hash((catalog.created_timestamp, catalog.deleted_timestamp, catalog.object_count, catalog.size_bytes))


def successor(name_hash: bytes) -> bytes:
    """The next hash in order. The last one's is itself, which ends a listing with one repeated entry."""
    number = int.from_bytes(name_hash, "big") + 1
    return min(number, (1 << 128) - 1).to_bytes(16, "big")
