"""The Range header.

Problem: three forms of one range, several ranges in one header, and a rule that a header which makes no sense is ignored.

Decision: of several ranges S3 gives the whole object with 200, and so do we: a client that asks for several must cope
with that (RFC 9110 section 14.2 lets a server ignore Range), and no S3 client expects multipart/byteranges.

Invariant: the result lies within the object and is never empty.
"""

from __future__ import annotations

from proxy.s3.errors import S3Error

_DIGITS_MAX = 20


def parse_range(value: bytes, size_bytes: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None where the header asks for nothing that can be given in part.

    Raises InvalidRange (416) where it is a range and nothing of it lies in the object.
    """
    if value[:6].lower() != b"bytes=" or b"," in value:
        return None
    first, dash, last = value[6:].strip().partition(b"-")
    if not dash or len(first) > _DIGITS_MAX or len(last) > _DIGITS_MAX:
        return None
    if not first:
        if not last.isdigit():
            return None
        suffix_bytes = int(last)
        if suffix_bytes == 0 or size_bytes == 0:
            raise invalid_range(value, size_bytes)
        return max(0, size_bytes - suffix_bytes), size_bytes
    if not first.isdigit() or (last and not last.isdigit()):
        return None
    start = int(first)
    stop = int(last) + 1 if last else size_bytes
    if last and stop <= start:
        return None
    if start >= size_bytes:
        raise invalid_range(value, size_bytes)
    return start, min(stop, size_bytes)


def parse_copy_range(value: bytes, size_bytes: int) -> tuple[int, int]:
    """x-amz-copy-source-range: `bytes=first-last` and nothing else, wholly within the source."""
    text = value.decode("latin-1")
    first, dash, last = value[6:].partition(b"-")
    well_formed = value.startswith(b"bytes=") and dash and first.isdigit() and last.isdigit()
    if not well_formed or len(first) > _DIGITS_MAX or len(last) > _DIGITS_MAX or int(first) > int(last):
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
            (("ArgumentName", "x-amz-copy-source-range"), ("ArgumentValue", text)),
        )
    if int(last) >= size_bytes:
        raise S3Error(
            "InvalidRange",
            f"Range specified is not valid for source object of size: {size_bytes}",
            (("RangeRequested", text), ("ActualObjectSize", str(size_bytes))),
        )
    return int(first), int(last) + 1


def invalid_range(value: bytes, size_bytes: int) -> S3Error:
    """416 with what was asked for and what there is."""
    return S3Error(
        "InvalidRange",
        fields=(("RangeRequested", value.decode("latin-1")), ("ActualObjectSize", str(size_bytes))),
        headers=((b"content-range", b"bytes */%d" % size_bytes),),
    )
