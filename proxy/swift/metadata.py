"""Headers of a request to the object model's metadata, and back.

The model's names (see proxy.model) are on the left, Swift's headers on the right:

    meta:NAME                           X-Object-Meta-NAME, X-Container-Meta-NAME, X-Account-Meta-NAME
    content-encoding and its like       the header itself
    delete-at                           X-Delete-At (X-Delete-After is made one)
    dlo                                 X-Object-Manifest, percent-encoded as the client sent it
    sys:read-acl, sys:write-acl         X-Container-Read, X-Container-Write

Accounts and containers merge: an item with an empty value, or named by X-Remove-…, goes. Objects replace: what a POST does
not name is gone, except what belongs to the data (checksums, `sys:` items of the other dialect).

Invariants: every limit that /info announces is checked here; a value that comes out as a header holds no line end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from proxy.dynamic import DLO, parse_dlo
from proxy.http.message import HeaderList
from proxy.model import Metadata
from proxy.swift.access import clean_read_acl, clean_write_acl
from proxy.swift.errors import SwiftError
from proxy.swift.settings import SwiftSettings

READ_ACL = "sys:read-acl"
WRITE_ACL = "sys:write-acl"
META = "meta:"
DELETE_AT = "delete-at"

STANDARD = {
    "content-encoding": b"Content-Encoding",
    "content-language": b"Content-Language",
    "content-disposition": b"Content-Disposition",
    "cache-control": b"Cache-Control",
    "expires": b"Expires",
}
_STANDARD_NAMES = {name.encode(): name for name in STANDARD}
_OBJECT_PREFIX = b"x-object-meta-"
_KEPT_BY_POST = ("sys:", "checksum:")
_STANDARD_VALUE_BYTES_MAX = 2048
"""Of Content-Disposition and its like, which are metadata to the store but no items of Swift's count."""
_TIMES_MAX = 10**10


# --------------------------------------------------------------------------------------------------------------- objects


def object_metadata(headers: Mapping[bytes, bytes], settings: SwiftSettings, now_s: float) -> dict[str, str]:
    """All that a PUT or POST says of an object, but its content type. Raises SwiftError 400."""
    metadata: dict[str, str] = {}
    count = 0
    for header, value in headers.items():
        if header.startswith(_OBJECT_PREFIX):
            metadata[META + header[14:].decode("ascii")] = header_text(header, value)
            count += 1
        elif header in _STANDARD_NAMES:
            if len(value) > _STANDARD_VALUE_BYTES_MAX:
                raise SwiftError(400, f"{header.decode()} is longer than {_STANDARD_VALUE_BYTES_MAX} bytes")
            metadata[_STANDARD_NAMES[header]] = header_text(header, value)
    if count:
        check_limits(metadata, settings)
    if b"x-delete-after" in headers or b"x-delete-at" in headers:
        delete_at = _delete_at(headers, now_s)
        if delete_at is not None:
            metadata[DELETE_AT] = str(delete_at)
    manifest = headers.get(b"x-object-manifest")
    if manifest:
        place = header_text(b"x-object-manifest", manifest)
        if parse_dlo(place) is None:
            raise SwiftError(400, "X-Object-Manifest must be in the format container/prefix")
        metadata[DLO] = place.strip("/")
    return metadata


def kept_metadata(metadata: Metadata) -> dict[str, str]:
    """What a POST leaves as it is."""
    return {name: value for name, value in metadata.items() if name.startswith(_KEPT_BY_POST)}


def expired(metadata: Metadata, now_s: float) -> bool:
    """Whether an object's time is over."""
    delete_at = metadata.get(DELETE_AT)
    return delete_at is not None and delete_at.isdecimal() and int(delete_at) <= now_s


def _delete_at(headers: Mapping[bytes, bytes], now_s: float) -> int | None:
    after = headers.get(b"x-delete-after")
    if after:
        if not after.removeprefix(b"-").isdigit():
            raise SwiftError(400, "Non-integer X-Delete-After")
        delete_at, header = int(now_s) + _bounded(after), "X-Delete-After"
    else:
        at = headers.get(b"x-delete-at")
        if not at:
            return None
        if not at.removeprefix(b"-").isdigit():
            raise SwiftError(400, "Non-integer X-Delete-At")
        delete_at, header = _bounded(at), "X-Delete-At"
    if delete_at <= now_s:
        raise SwiftError(400, f"{header} in past")
    return delete_at


def _bounded(number: bytes) -> int:
    """A number of seconds, bounded so that nothing after it has to think about huge ones."""
    return min(int(number[:20]), _TIMES_MAX)


# ----------------------------------------------------------------------------------------------- accounts and containers


def catalog_changes(headers: Mapping[bytes, bytes], kind: bytes, settings: SwiftSettings) -> dict[str, str]:
    """What a PUT or POST of an account or container (`kind`) changes; "" removes. Raises SwiftError 400."""
    prefix, removal = b"x-%b-meta-" % kind, b"x-remove-%b-meta-" % kind
    changes: dict[str, str] = {}
    removed: list[str] = []
    for header, value in headers.items():
        if header.startswith(prefix):
            changes[META + header[len(prefix) :].decode("ascii")] = header_text(header, value)
        elif header.startswith(removal):
            removed.append(META + header[len(removal) :].decode("ascii"))
    changes.update(dict.fromkeys(removed, ""))
    check_limits(changes, settings)
    if kind == b"container":
        _acl_changes(headers, changes)
    return changes


def _acl_changes(headers: Mapping[bytes, bytes], changes: dict[str, str]) -> None:
    for name, header, clean in (
        (READ_ACL, b"x-container-read", clean_read_acl),
        (WRITE_ACL, b"x-container-write", clean_write_acl),
    ):
        value = headers.get(header)
        if header.replace(b"x-", b"x-remove-", 1) in headers:
            changes[name] = ""
        elif value is not None:
            try:
                changes[name] = clean(header_text(header, value))
            except ValueError as error:
                raise SwiftError(400, f"{header.decode()}: {error}") from None


def check_merged(existing: Metadata, changes: Mapping[str, str], settings: SwiftSettings) -> None:
    """Whether what is there and what is added to it stay within the limits together. Raises SwiftError 400."""
    merged = {**existing, **changes}
    check_limits({name: value for name, value in merged.items() if value}, settings)


def check_limits(metadata: Metadata, settings: SwiftSettings) -> None:
    """Raises SwiftError 400 where user metadata is more, or longer, than /info announces."""
    count = overall = 0
    for key, value in metadata.items():
        if not key.startswith(META):
            continue
        name_bytes, value_bytes = len(key) - len(META), len(value.encode("utf-8", "surrogateescape"))
        if not name_bytes:
            raise SwiftError(400, "Metadata name cannot be empty")
        if name_bytes > settings.meta_name_bytes_max:
            raise SwiftError(400, f"Metadata name too long: {name_bytes} > {settings.meta_name_bytes_max}")
        if value_bytes > settings.meta_value_bytes_max:
            raise SwiftError(
                400, f"Metadata value longer than {settings.meta_value_bytes_max}: {key[len(META) :]} has {value_bytes}"
            )
        count += 1
        overall += name_bytes + value_bytes
    if count > settings.meta_count_max:
        raise SwiftError(400, f"Too many metadata items; max {settings.meta_count_max}")
    if overall > settings.meta_overall_bytes_max:
        raise SwiftError(400, f"Total metadata too large; max {settings.meta_overall_bytes_max}")


# --------------------------------------------------------------------------------------------------------------- headers


def add_object_headers(headers: HeaderList, metadata: Metadata) -> None:
    """Append what GET and HEAD of an object say of its metadata."""
    for name, value in metadata.items():
        if name.startswith(META):
            headers.append((meta_header(b"X-Object-Meta-", name), header_value(value)))
        elif name in STANDARD:
            headers.append((STANDARD[name], header_value(value)))
        elif name == DELETE_AT:
            headers.append((b"X-Delete-At", header_value(value)))
        elif name == DLO:
            headers.append((b"X-Object-Manifest", header_value(value)))


def add_catalog_headers(headers: HeaderList, metadata: Metadata, prefix: bytes, *, owner: bool) -> None:
    """Append an account's or container's metadata; its ACLs and signing keys only for its owner."""
    for name, value in metadata.items():
        if name.startswith(META):
            if owner or not name.startswith("meta:temp-url-key"):
                headers.append((meta_header(prefix, name), header_value(value)))
        elif owner and name == READ_ACL:
            headers.append((b"X-Container-Read", header_value(value)))
        elif owner and name == WRITE_ACL:
            headers.append((b"X-Container-Write", header_value(value)))


@lru_cache(maxsize=4096)
def meta_header(prefix: bytes, name: str) -> bytes:
    """The header of a metadata item, each word with a capital, as Swift sends it."""
    return prefix + name[len(META) :].title().encode("utf-8", "surrogateescape")


def header_value(value: str) -> bytes:
    """Metadata as a header's value; the other dialect may have stored line ends."""
    if "\n" in value or "\r" in value:
        value = value.replace("\r", " ").replace("\n", " ")
    return value.encode("utf-8", "surrogateescape")


def header_text(header: bytes, value: bytes) -> str:
    """A header's value as text. Raises SwiftError 400 for what is no UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise SwiftError(400, f"{header.decode('latin-1')} must be valid UTF-8") from None


def truthy(value: bytes | None) -> bool:
    """Whether a header says yes, in one of the ways in which Swift's clients say it."""
    return value is not None and value.strip().lower() in _YES


def names(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The names of headers, in order (what a CORS answer exposes)."""
    return [name for name, _ in headers]


_YES = frozenset((b"true", b"1", b"yes", b"on", b"t", b"y"))
