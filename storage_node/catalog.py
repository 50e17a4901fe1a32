"""A catalog's metadata items: packed, and merged newest first.

Items are kept as msgpack of [[name, value, timestamp], ...] in the order of their names: equal items are equal bytes, so a
digest over the bytes compares two replicas. A removed item stays, with an empty value, until the catalog itself is deleted:
a late write of an older value must not bring it back.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgpack

from storage_node.errors import CorruptData

Items = dict[bytes, tuple[bytes, int]]


def pack_items(items: Mapping[bytes, tuple[bytes, int]]) -> bytes:
    """The stored form."""
    if not items:
        return b""
    return bytes(msgpack.packb([(name, value, timestamp) for name, (value, timestamp) in sorted(items.items())]))


def unpack_items(packed: bytes) -> Items:
    """Back from the stored form; raises CorruptData where it is no such form."""
    if not packed:
        return {}
    try:
        return {name: (value, timestamp) for name, value, timestamp in msgpack.unpackb(packed, raw=True)}
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptData(f"catalog metadata of {len(packed)} bytes can't be read: {error}") from error


def merge_items(held: Items, changes: Mapping[bytes, tuple[bytes, int]], newer_than: int) -> Items:
    """The union, of each item the newer (of equal timestamps the greater value, so that order does not matter).

    Items not newer than `newer_than`, the catalog's deletion, belong to its former life and are dropped.
    """
    result = {name: item for name, item in held.items() if item[1] > newer_than}
    for name, (value, timestamp) in changes.items():
        if timestamp <= newer_than:
            continue
        there = result.get(name)
        if there is None or (timestamp, value) > (there[1], there[0]):
            result[name] = (value, timestamp)
    return result
