"""The ring: from a key to its partition, and from a partition to its devices.

Problem: every request asks where a name lives, so the answer must cost next to nothing; and when a machine is away every
party must come, without talking, to the same next device.

Idea: a partition is the top `part_power` bits of the key's hash, and a table of whole arrays gives a device for each
(replica, partition). Tuples of devices are made a block at a time when first asked for, and kept: afterwards a look-up is
one list index. Handoffs are the other devices in an order that depends on partition and seed alone, each further device
as far as possible, in failure domains, from those before it.

A partition is a prefix of the hash, so when the part power grows by one, partition p becomes 2p and 2p+1 on the very same
devices: nothing moves and no file is renamed. `transition_power` is set from the moment that an increase is prepared until
it is finished; while it is set partitions numbered under either power are valid, and the order of handoffs is that of the
lower power, so that what lies on a handoff is found under both.

Rejected: a dictionary of computed look-ups (slower than a list, and unbounded), Swift's walk over other partitions for
handoffs (it reads the table at random and must be walked to the end to find the last device).

Invariants: the devices of a partition are distinct; every number in the table is the id of a device that is there; the
last row may end early (a fractional replica count), which the table says with `NO_DEVICE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from ring.topology import Device, Kind
from ring.walk import WalkOrder

PART_POWER_MAX = 32
REPLICA_COUNT_MAX = 64
NO_DEVICE = 0xFFFF_FFFF
"""In a table: this replica of this partition is nowhere (fractional replica count, or not assigned yet)."""
SEED_MAX = (1 << 64) - 1

Table: TypeAlias = NDArray[np.uint32]
"""Device ids, indexed [replica, partition]."""

_BLOCK_PARTS = 256
"""Tuples are made so many partitions at a time: the cost of going through numpy is shared, and a process that touches few
partitions makes few."""
_HANDOFFS_KEPT = 8
"""The first handoffs of a partition are asked for again and again while a device is away, those after them hardly ever."""
_HANDOFF_PARTS_MAX = 1 << 17
"""Partitions whose first handoffs are kept (some 16 MiB) before the oldest go."""


class RingError(ValueError):
    """The caller's: a ring that cannot be, or a question about a partition that there is not."""


class Ring:
    """An immutable map from keys to devices. Safe to share between threads: caches only ever gain equal values.

    part_power      a ring has 2**part_power partitions
    replica_count   3.0, or 2.5 when every other partition has a third replica
    seed            of the hash function, one for the life of a cluster, 0..2**64-1
    epoch           grows by one with every change of the ring; of two rings of a cluster the one with more is in force
    devices         by id, None where an id is not in use
    """

    __slots__ = (
        "_blocks",
        "_handoffs",
        "_orders",
        "_shift",
        "_tuples",
        "devices",
        "epoch",
        "part_count",
        "part_power",
        "replica_count",
        "seed",
        "table",
        "transition_power",
    )

    def __init__(
        self,
        *,
        part_power: int,
        seed: int,
        epoch: int,
        devices: Iterable[Device | None],
        table: Table,
        transition_power: int | None = None,
    ) -> None:
        self.part_power = part_power
        self.part_count = 1 << part_power
        self.seed = seed
        self.epoch = epoch
        self.devices: tuple[Device | None, ...] = tuple(devices)
        self.table = table
        self.transition_power = transition_power
        _check_shape(self)
        short_count = int(np.count_nonzero(table[-1] == NO_DEVICE))
        self.replica_count = len(table) - short_count / self.part_count
        self._shift = 128 - part_power
        self._tuples: list[tuple[Device, ...] | None] = [None] * self.part_count
        self._orders: dict[Kind, WalkOrder] = {}
        self._handoffs: dict[int, tuple[Device, ...]] = {}

    @classmethod
    def load(cls, path: str | Path) -> Ring:
        """The ring in that file. RingFileError says what is wrong with the file, and where."""
        from ring.ring_file import load  # the file format knows the ring, and not the other way round

        return load(path)

    @classmethod
    def loads(cls, data: bytes) -> Ring:
        """The ring in these bytes, as `dumps` wrote them. RingFileError says what is wrong with them, and where."""
        from ring.ring_file import loads

        return loads(data)

    def dumps(self) -> bytes:
        """This ring as the content of a ring file."""
        from ring.ring_file import dumps

        return dumps(self)

    def hash_key(self, key: bytes) -> bytes:
        """The 16 bytes (xxh3_128, big-endian) that place a key: b"/account/container/object", raw UTF-8."""
        return xxhash.xxh3_128_digest(key, seed=self.seed)

    def partition(self, key_hash: bytes) -> int:
        """The partition of a hash that `hash_key` gave."""
        return int.from_bytes(key_hash, "big") >> self._shift

    def primaries(self, partition: int) -> tuple[Device, ...]:
        """The distinct devices of that partition, by replica."""
        devices = self._tuples[partition]
        if devices is None:
            self._make_block(partition)
            devices = self._tuples[partition]
            assert devices is not None
        return devices

    def handoffs(self, partition: int) -> Iterator[Device]:
        """All other devices, other failure domains first, the same on every machine; weight 0 comes last."""
        kept = self._handoffs.get(partition)
        if kept is None:
            kept = self._all_handoffs(partition)[:_HANDOFFS_KEPT]
            if len(self._handoffs) >= _HANDOFF_PARTS_MAX:
                self._handoffs.pop(next(iter(self._handoffs)))
            self._handoffs[partition] = kept
        yield from kept
        if len(kept) == _HANDOFFS_KEPT:
            yield from self._all_handoffs(partition)[_HANDOFFS_KEPT:]

    def _all_handoffs(self, partition: int) -> tuple[Device, ...]:
        primaries = self.primaries(partition)
        return self.walk(partition, primaries[0].kind if primaries else "disk", primaries)

    def walk(self, number: int, kind: Kind, after: tuple[Device, ...] = ()) -> tuple[Device, ...]:
        """All devices of a kind, without those of `after`, in an order that `number` (a partition) decides.

        Each device comes in a domain that those before it (and `after`) use least: regions first, then zones, then nodes.
        Among equals the chance to come early is in proportion to the weight; weight 0 comes last.
        """
        order = self._orders.get(kind)
        if order is None:
            order = self._orders[kind] = WalkOrder(
                [device for device in self.devices if device and device.kind == kind]
            )
        return order.walk(self._handoff_number(number), self.seed, after)

    @property
    def part_powers(self) -> tuple[int, ...]:
        """The part powers under which a partition number is valid now: one, or two while an increase is under way."""
        if self.transition_power is None:
            return (self.part_power,)
        return (self.part_power, self.transition_power)

    def primaries_under(self, partition: int, part_power: int) -> tuple[Device, ...]:
        """The devices of a partition that was numbered under any of `part_powers`. RingError for another power."""
        if part_power not in self.part_powers:
            raise RingError(f"part power {part_power} is not in force; the ring has {self.part_powers}")
        shift = self.part_power - part_power
        return self.primaries(partition << shift if shift >= 0 else partition >> -shift)

    def _handoff_number(self, partition: int) -> int:
        """The partition under the lower of the powers in force, so that both see the same handoffs."""
        if self.transition_power is not None and self.transition_power < self.part_power:
            return partition >> (self.part_power - self.transition_power)
        return partition

    def _make_block(self, partition: int) -> None:
        """Make the tuples of the block of partitions around this one."""
        if not 0 <= partition < self.part_count:
            raise RingError(f"partition {partition} is outside 0..{self.part_count - 1}")
        start = partition - partition % _BLOCK_PARTS
        columns = self.table[:, start : start + _BLOCK_PARTS].T.tolist()
        devices = self.devices
        self._tuples[start : start + len(columns)] = [
            tuple([devices[number] for number in row if number != NO_DEVICE]) for row in columns
        ]


def _check_shape(ring: Ring) -> None:
    """RingError unless the ring's parts fit each other. The content of the table is checked by `ring.check`."""
    if not 0 <= ring.part_power <= PART_POWER_MAX:
        raise RingError(f"part power {ring.part_power} is outside 0..{PART_POWER_MAX}")
    if not 0 <= ring.seed <= SEED_MAX:
        raise RingError(f"seed {ring.seed} is outside 0..2**64-1")
    if ring.epoch < 0:
        raise RingError(f"epoch {ring.epoch} is negative")
    rows = len(ring.table)
    if ring.table.ndim != 2 or not 1 <= rows <= REPLICA_COUNT_MAX or ring.table.shape[1] != ring.part_count:
        raise RingError(f"a table of shape {ring.table.shape} does not fit part power {ring.part_power}")
    if ring.table.dtype != np.uint32:
        raise RingError(f"a table of {ring.table.dtype} is not one of uint32")
    if ring.transition_power is not None and abs(ring.transition_power - ring.part_power) != 1:
        raise RingError(f"transition power {ring.transition_power} is not next to part power {ring.part_power}")
    if any(device is not None and device.id != number for number, device in enumerate(ring.devices)):
        raise RingError("a device stands at a place that is not its id")
