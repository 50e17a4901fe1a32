"""A page of objects that was read straight from a device's index, and is made into text from there.

Problem: a page of a thousand names is the dearest answer that a proxy gives, and nearly all of it went into making rows
into tuples, these into listed objects, and these into what the encoder takes.

Idea: the page keeps what the index gave (storage_node.stored_rows) and is a sequence of `ListedObject` to all who ask for
one. A dialect that renders it takes names and values, and unpacks each with PLAIN: nearly every payload begins with an
MD5 as text of 32 characters, at a fixed place (PLAIN_MARK says so), and ends in a content type and an algorithm that are
those of many other rows of the page, so what is to be written for them is made once (`spelled_tails`). A row of another
form (the ETag of a multipart upload, say) is rendered by itself, as if it had come over the wire; a page with a value too
short for PLAIN, as a whole. What is in a payload is the business of `proxy.entry`, with which a test compares.

Rejected: keeping rendered pages (a user's listing is read once; and it would have to be thrown away with every write).

Invariants: no text goes into a document that was not either escaped there or seen to need no escaping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, overload

import msgpack

from proxy.entry import CorruptEntry, listed_objects
from proxy.model import ListedObject
from proxy.spelled import Spelled
from storage_node.stored_rows import Pair, StoredRows, row_of, row_struct

PLAIN: Final = row_struct("3s32s")
"""timestamp, sub_timestamp, size_bytes, mark, ETag. Behind it stands the tail."""
PLAIN_MARK: Final = b"\x93\xd9\x20"
"""msgpack: an array of three, of which the first is a text of 32 bytes."""
_TAIL_HEAD: Final = b"\x92"
"""msgpack: an array of two."""
TAILS_MAX: Final = 1_000
"""Different ones of a page that are kept while it is rendered."""


class ObjectPage(Sequence[ListedObject]):
    """The objects of a page without prefixes. What does not unpack raises CorruptEntry, when it is asked for."""

    __slots__ = ("stored",)

    def __init__(self, stored: StoredRows) -> None:
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[ListedObject]:
        return iter(listed_objects(self.stored))

    @overload
    def __getitem__(self, index: int) -> ListedObject: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ListedObject]: ...
    def __getitem__(self, index: int | slice) -> ListedObject | Sequence[ListedObject]:
        pairs = self.stored.pairs
        return ObjectPage(StoredRows(pairs[index])) if isinstance(index, slice) else object_of(pairs[index])

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, (tuple, ObjectPage)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to a tuple, and never a key

    def __repr__(self) -> str:
        return f"ObjectPage{tuple(self)!r}"


def object_of(pair: Pair) -> ListedObject:
    """One row as a listing shows it. Raises CorruptEntry."""
    return listed_objects((row_of(pair),))[0]


def spelled_tails(spell: Callable[[str, str], bytes]) -> Spelled[bytes]:
    """What stands in a page's document for a tail. `spell` is given content type and checksum algorithm.

    Looking up what does not unpack raises CorruptEntry.
    """

    def spell_tail(tail: bytes) -> bytes:
        try:
            content_type, algorithm = msgpack.unpackb(_TAIL_HEAD + tail)
            return spell(content_type, algorithm)
        except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise CorruptEntry(f"a listing's row does not unpack: {error}") from error

    return Spelled(spell_tail, TAILS_MAX)


def without(names: Sequence[bytes], characters: bytes) -> bool:
    """Whether none of the characters (bytes) is in any of the names."""
    text = b"".join(names)
    return len(text.translate(None, characters)) == len(text)


def all_utf8(names: Sequence[bytes]) -> bool:
    """Whether each name is text. (What stands between them is a whole character, so that no two make one together.)"""
    text = b"\n".join(names)
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
