"""What multipart uploads in progress are called inside the store.

Two internal containers in the bucket's account, made when a bucket sees its first upload:

    NUL uploads NUL bucket    one marker an upload: KEY NUL UPLOAD_ID
    NUL parts NUL bucket      the parts: KEY NUL UPLOAD_ID NUL NUMBER NUL ATTEMPT      (NUMBER five digits)

Keys hold no NUL, so these names sort as keys do, then by upload, then by part. An upload id begins with the time of the
upload in hexadecimal, so uploads of one key sort by age, as ListMultipartUploads has to give them.

Every attempt at a part has a name of its own and is never overwritten. A part that is sent again while the upload is being
completed, or whose first sending ends after that, therefore cannot change what the completed object consists of.

Rejected: one container for both (listing uploads would walk over the parts of every completed object); one name a part
(a late retry breaks a completed object, whose manifest then names bytes that are gone).
"""

from __future__ import annotations

from typing import NamedTuple

_NUL = b"\x00"
_TIME_DIGITS = 14
_RANDOM_BYTES = 9
_ATTEMPT_RANDOM_BYTES = 4


class PartName(NamedTuple):
    """The name of one attempt at a part, taken apart."""

    key: bytes
    upload_id: bytes
    number: int
    attempt: bytes


def uploads_container(bucket: bytes) -> bytes:
    """Where a bucket's uploads in progress are."""
    return b"\x00uploads\x00" + bucket


def parts_container(bucket: bytes) -> bytes:
    """Where the parts are, of uploads in progress and of completed objects."""
    return b"\x00parts\x00" + bucket


def new_upload_id(now_us: int, random: bytes) -> bytes:
    """An upload id. `random` is 9 bytes."""
    assert len(random) == _RANDOM_BYTES
    return b"%014x" % now_us + random.hex().encode()


def upload_random_bytes() -> int:
    """How many random bytes an upload id takes."""
    return _RANDOM_BYTES


def initiated_us(upload_id: bytes) -> int:
    """When the upload was begun, microseconds since 1970; 0 for an id that is none of ours."""
    try:
        return int(upload_id[:_TIME_DIGITS], 16)
    except ValueError:
        return 0


def marker_name(key: bytes, upload_id: bytes) -> bytes:
    """The marker of an upload."""
    return key + _NUL + upload_id


def split_marker(name: bytes) -> tuple[bytes, bytes]:
    """Key and upload id of a marker."""
    key, _, upload_id = name.partition(_NUL)
    return key, upload_id


def part_prefix(key: bytes, upload_id: bytes) -> bytes:
    """What all parts of an upload begin with."""
    return key + _NUL + upload_id + _NUL


def part_name(key: bytes, upload_id: bytes, number: int, now_us: int, random: bytes) -> bytes:
    """A name for a new attempt at a part. `random` is 4 bytes."""
    assert len(random) == _ATTEMPT_RANDOM_BYTES
    return part_prefix(key, upload_id) + b"%05d\x00%014x%s" % (number, now_us, random.hex().encode())


def attempt_random_bytes() -> int:
    """How many random bytes an attempt takes."""
    return _ATTEMPT_RANDOM_BYTES


def part_bound(key: bytes, upload_id: bytes, number: int) -> bytes:
    """A marker behind all attempts at part `number`, before those at the next."""
    return part_prefix(key, upload_id) + b"%05d\x01" % number


def split_part(name: bytes) -> PartName | None:
    """A part's name taken apart; None where it is none."""
    pieces = name.split(_NUL)
    if len(pieces) != 4 or len(pieces[2]) != 5 or not pieces[2].isdigit():
        return None
    return PartName(pieces[0], pieces[1], int(pieces[2]), pieces[3])


def part_number_of(segment_name: bytes, index: int) -> int:
    """The part number of a manifest's segment: as it was uploaded, or its position where it was not a part."""
    part = split_part(segment_name)
    return index + 1 if part is None else part.number
