"""Listing the same range on several devices side by side: the questions behind `pages.align`.

A device that fails in the middle is left out from there on: what it did not say is not taken for emptiness, since the caller
is told with each portion who has answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from replicator.differences import HashRange
from replicator.pages import align
from replicator.peers import Peers, Question, submit_all
from storage_node.operations import (
    HASH_BYTES,
    Answer,
    FoundEntries,
    FoundRows,
    ListedEntry,
    ListEntries,
    ListRows,
    Row,
    Status,
)

ENTRIES_PAGE: Final = 512
ROWS_PAGE: Final = 1000
HASH_LAST: Final = (1 << 8 * HASH_BYTES) - 1


async def gather(
    peers: Peers, devices: Sequence[int], operation: Question, timeout_s: float = 10.0
) -> dict[int, Answer]:
    """What each of the devices answers to one question, FOUND or MISSING; the others are left out."""
    known = [device for device in devices if device in peers.by_id]
    answers = await submit_all([(peers.by_id[device], operation) for device in known], timeout_s)
    return {
        device: answer
        for device, answer in zip(known, answers, strict=True)
        if answer.status in (Status.FOUND, Status.MISSING)
    }


async def list_entries(
    peers: Peers, space: int, within: HashRange, devices: Sequence[int]
) -> AsyncIterator[tuple[dict[bytes, dict[int, ListedEntry]], tuple[int, ...]]]:
    """Portions of what the devices hold in a range: entries by hash and device, and who has answered so far."""
    start: bytes | None = within.start
    answering = tuple(devices)
    while start is not None and answering:
        answers = await gather(peers, answering, ListEntries(space, start, within.end, ENTRIES_PAGE))
        pages = {
            device: (answer.entries, answer.truncated)
            for device, answer in answers.items()
            if isinstance(answer, FoundEntries)
        }
        answering = tuple(pages)
        beside, bound = align(pages, _hash_of)
        yield beside, answering
        start = next_hash(bound, within.end)


async def list_rows(
    peers: Peers, space: int, hash_: bytes, key: bytes, devices: Sequence[int]
) -> AsyncIterator[tuple[dict[bytes, dict[int, Row]], tuple[int, ...]]]:
    """Portions of a catalog's rows, tombstones too: by name and device, and who has answered so far."""
    start: bytes | None = b""
    answering = tuple(devices)
    while start is not None and answering:
        operation = ListRows(space, hash_, key, start, limit=ROWS_PAGE, deleted=True)
        answers = await gather(peers, answering, operation)
        pages = {
            device: (tuple(item for item in answer.items if isinstance(item, Row)), answer.truncated)
            for device, answer in answers.items()
            if isinstance(answer, FoundRows)
        }
        answering = tuple(pages)
        beside, bound = align(pages, _name_of)
        yield beside, answering
        start = None if bound is None else bound + b"\x00"


def next_hash(bound: bytes | None, end: bytes | None) -> bytes | None:
    """Where to go on behind the last hash that all have answered; None at the range's end."""
    if bound is None:
        return None
    number = int.from_bytes(bound, "big")
    if number == HASH_LAST:
        return None
    following = (number + 1).to_bytes(HASH_BYTES, "big")
    return None if end is not None and following >= end else following


def _hash_of(item: ListedEntry) -> bytes:
    return item.hash


def _name_of(item: Row) -> bytes:
    return item.name
