"""What every field of every message has to be, and the checkers that are generated from it.

Problem: whatever comes over a wire has to be checked before it is believed: the number, type and limits of every field.
Written by hand, that is forty functions which drift from the types they check; done by reflection at each call, it costs
more than the device's work.

Idea: one table says, for each NamedTuple of operations.py, what each field must be, as a Python expression. From it one
checker for each type is generated when this module is loaded (as `namedtuple` and `dataclass` make their methods): a
straight line of `type(x) is int and 0 <= x <= ...`. A test holds the table against the types' own fields.

Rejected: pydantic and msgspec structs (another description beside operations.py, and no faster than this).

Invariants: a decoder gives a value of exactly its type, within the limits, or raises ProtocolError; it raises nothing
else, whatever it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from storage_node.frames import MESSAGE_BYTES_MAX, ProtocolError
from storage_node.operations import (
    HASH_BYTES,
    HELD_RINGS_MAX,
    KEY_BYTES_MAX,
    LIST_ROWS_MAX,
    META_BYTES_MAX,
    RING_PIECE_BYTES,
    RING_STATE_BYTES_MAX,
    ROW_NAME_BYTES_MAX,
    SMALL_BYTES_MAX,
    Catalog,
    CommonPrefix,
    DeleteCatalog,
    DeleteObject,
    Entry,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    Found,
    FoundCatalog,
    FoundDigests,
    FoundEntries,
    FoundRings,
    FoundRows,
    FoundStatistics,
    GetCatalog,
    GetDigests,
    GetObject,
    GetRings,
    GetStatistics,
    HeldRing,
    JoinCatalog,
    ListedEntry,
    ListEntries,
    ListRows,
    Locked,
    LockObject,
    MarkFilled,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Row,
    Space,
    Statistics,
    Status,
    UnlockObject,
    UpdateObject,
    Written,
)
from storage_node.timestamp import TIMESTAMP_MAX

ROW_PAYLOAD_BYTES_MAX = META_BYTES_MAX
"""What a listing says of one name."""
LIST_ENTRIES_MAX = LIST_ROWS_MAX
"""Entries of one answer to ListEntries."""
DIGESTS_MAX = 1 << 16
"""Digests of one answer to GetDigests."""
LEASE_MS_MAX = 3_600_000
"""Beyond any sensible lease; the device has a limit of its own."""
META_ITEMS_MAX = 4096
"""Items of a catalog's metadata."""
DETAIL_CHARS_MAX = 2000
UUID_BYTES = 16
_U63_MAX = (1 << 63) - 1
ARRAY_COUNT_MAX = max(LIST_ROWS_MAX, LIST_ENTRIES_MAX, DIGESTS_MAX)


class Ping(NamedTuple):
    """Is the peer's process alive? -> Written(APPLIED)"""


class BeginWrite(NamedTuple):
    """Object data follows. -> Written, after PutBlobHeader or as soon as it fails"""


class PutBlobHeader(NamedTuple):
    """What is known of a large object when all its data was sent: a PutObject without the data. -> Written"""

    hash: bytes
    key: bytes
    timestamp: int
    meta: bytes
    manifest: bool = False
    lock: int | None = None
    meta_timestamp: int = 0


class OpenRead(NamedTuple):
    """Ask for bytes start..stop (None: the end) of an object, of that version only if a timestamp is given. -> Found"""

    hash: bytes
    key: bytes
    timestamp: int | None
    start: int
    stop: int | None


class TransferEnd(NamedTuple):
    """How a bulk read ended: FOUND after the last byte, or why it could not go on."""

    status: int
    detail: str = ""


# ------------------------------------------------------------------------------------------- what each field has to be
# In these expressions {0} is the field.


def _int(low: int, high: int) -> str:
    return f"(type({{0}}) is int and {low} <= {{0}} <= {high})"


def _space(low: int) -> str:
    """A Space, as the enumeration's member (callers have that) or as its number (the wire has that)."""
    return f"(isinstance({{0}}, int) and {{0}} is not True and {{0}} is not False and {int(low)} <= {{0}} <= 2)"


def _bytes(length_max: int, length_min: int = 0) -> str:
    if length_min == length_max:
        return f"(type({{0}}) is bytes and len({{0}}) == {length_max})"
    if length_min == 0:
        return f"(type({{0}}) is bytes and len({{0}}) <= {length_max})"
    return f"(type({{0}}) is bytes and {length_min} <= len({{0}}) <= {length_max})"


def _optional(expression: str) -> str:
    return f"({{0}} is None or {expression})"


_BOOL = "({0} is True or {0} is False)"
_TIMESTAMP = _int(0, TIMESTAMP_MAX)
_COUNT = _int(0, _U63_MAX)
_SIGNED = _int(-_U63_MAX, _U63_MAX)
_STATUS = _int(0, max(Status))
_SPACE = _space(Space.OBJECT)
_CATALOG_SPACE = _space(Space.CONTAINER)
_HASH = _bytes(HASH_BYTES, HASH_BYTES)
_KEY = _bytes(KEY_BYTES_MAX, 1)
_NAME = _bytes(ROW_NAME_BYTES_MAX)
_META = _bytes(META_BYTES_MAX)
_DETAIL = f"(type({{0}}) is str and len({{0}}) <= {DETAIL_CHARS_MAX})"
_ITEMS = "(type({0}) is dict and are_items({0}))"
_LOCK = _optional(_TIMESTAMP)

_FIELDS: dict[type, dict[str, str]] = {
    Ping: {},
    PutObject: {
        "hash": _HASH,
        "key": _KEY,
        "timestamp": _TIMESTAMP,
        "meta": _META,
        "data": _bytes(SMALL_BYTES_MAX),
        "manifest": _BOOL,
        "lock": _LOCK,
        "meta_timestamp": _TIMESTAMP,
    },
    DeleteObject: {"hash": _HASH, "key": _KEY, "timestamp": _TIMESTAMP, "lock": _LOCK},
    UpdateObject: {
        "hash": _HASH,
        "key": _KEY,
        "data_timestamp": _TIMESTAMP,
        "timestamp": _TIMESTAMP,
        "meta": _META,
    },
    LockObject: {"hash": _HASH, "key": _KEY, "timestamp": _TIMESTAMP, "lease_ms": _int(0, LEASE_MS_MAX)},
    UnlockObject: {"hash": _HASH, "timestamp": _TIMESTAMP},
    PutCatalog: {
        "space": _CATALOG_SPACE,
        "hash": _HASH,
        "key": _KEY,
        "timestamp": _TIMESTAMP,
        "meta": _ITEMS,
        "create": _BOOL,
    },
    DeleteCatalog: {"space": _CATALOG_SPACE, "hash": _HASH, "key": _KEY, "timestamp": _TIMESTAMP},
    PutRow: {
        "space": _CATALOG_SPACE,
        "hash": _HASH,
        "name": _bytes(ROW_NAME_BYTES_MAX, 1),
        "timestamp": _TIMESTAMP,
        "sub_timestamp": _TIMESTAMP,
        "deleted": _BOOL,
        "object_count": _COUNT,
        "size_bytes": _COUNT,
        "payload": _bytes(ROW_PAYLOAD_BYTES_MAX),
        "replica": _BOOL,
    },
    JoinCatalog: {
        "space": _CATALOG_SPACE,
        "hash": _HASH,
        "key": _KEY,
        "created_timestamp": _TIMESTAMP,
        "deleted_timestamp": _TIMESTAMP,
        "touched_timestamp": _TIMESTAMP,
        "meta": _ITEMS,
    },
    ForgetObject: {"hash": _HASH, "key": _KEY, "timestamp": _TIMESTAMP, "meta_timestamp": _TIMESTAMP},
    ForgetRow: {
        "space": _CATALOG_SPACE,
        "hash": _HASH,
        "name": _bytes(ROW_NAME_BYTES_MAX, 1),
        "timestamp": _TIMESTAMP,
        "sub_timestamp": _TIMESTAMP,
    },
    ForgetCatalog: {
        "space": _CATALOG_SPACE,
        "hash": _HASH,
        "key": _KEY,
        "created_timestamp": _TIMESTAMP,
        "deleted_timestamp": _TIMESTAMP,
        "touched_timestamp": _TIMESTAMP,
        "meta": _ITEMS,
    },
    RewriteRecord: {"space": _SPACE, "hash": _HASH, "name": _NAME},
    GetObject: {"hash": _HASH, "key": _KEY, "data": _BOOL},
    GetCatalog: {"space": _CATALOG_SPACE, "hash": _HASH, "key": _KEY},
    ListRows: {
        "space": _CATALOG_SPACE,
        "hash": _HASH,
        "key": _KEY,
        "start": _NAME,
        "end": _optional(_NAME),
        "prefix": _NAME,
        "delimiter": _NAME,
        "limit": _int(0, LIST_ROWS_MAX),
        "reverse": _BOOL,
        "deleted": _BOOL,
    },
    GetDigests: {
        "space": _SPACE,
        "bits": _int(0, 64),
        "prefix": _int(0, TIMESTAMP_MAX),
        "fan_out_bits": _int(0, DIGESTS_MAX.bit_length() - 1),
    },
    ListEntries: {
        "space": _SPACE,
        "start": _bytes(HASH_BYTES),
        "end": _optional(_bytes(HASH_BYTES)),
        "limit": _int(0, LIST_ENTRIES_MAX),
    },
    GetStatistics: {},
    MarkFilled: {"filling": _DETAIL},
    BeginWrite: {},
    PutBlobHeader: {
        "hash": _HASH,
        "key": _KEY,
        "timestamp": _TIMESTAMP,
        "meta": _META,
        "manifest": _BOOL,
        "lock": _LOCK,
        "meta_timestamp": _TIMESTAMP,
    },
    OpenRead: {
        "hash": _HASH,
        "key": _KEY,
        "timestamp": _optional(_TIMESTAMP),
        "start": _COUNT,
        "stop": _optional(_COUNT),
    },
    TransferEnd: {"status": _STATUS, "detail": _DETAIL},
    Entry: {
        "timestamp": _TIMESTAMP,
        "meta_timestamp": _TIMESTAMP,
        "deleted": _BOOL,
        "size_bytes": _COUNT,
        "meta": _META,
        "manifest": _BOOL,
    },
    Catalog: {
        "created_timestamp": _TIMESTAMP,
        "deleted_timestamp": _TIMESTAMP,
        "meta": _ITEMS,
        "row_count": _SIGNED,
        "object_count": _SIGNED,
        "size_bytes": _SIGNED,
        "digest": _HASH,
        "newest_row_timestamp": _TIMESTAMP,
        "touched_timestamp": _TIMESTAMP,
    },
    Row: {
        "name": _NAME,
        "timestamp": _TIMESTAMP,
        "sub_timestamp": _TIMESTAMP,
        "deleted": _BOOL,
        "object_count": _COUNT,
        "size_bytes": _COUNT,
        "payload": _bytes(ROW_PAYLOAD_BYTES_MAX),
    },
    CommonPrefix: {"prefix": _NAME},
    ListedEntry: {"hash": _HASH, "key": _KEY, "entry": "True"},
    Statistics: {
        "uuid": _bytes(UUID_BYTES, UUID_BYTES),
        "name": _DETAIL,
        "total_bytes": _COUNT,
        "free_bytes": _COUNT,
        "log_bytes": _COUNT,
        "log_live_bytes": _SIGNED,
        "blob_bytes": _SIGNED,
        "blob_count": _SIGNED,
        "object_count": _SIGNED,
        "tombstone_count": _SIGNED,
        "container_count": _SIGNED,
        "account_count": _SIGNED,
        "row_count": _SIGNED,
        "segment_count": _COUNT,
        "recent_count": _COUNT,
        "writes": _COUNT,
        "syncs": _COUNT,
        "sync_seconds": "(type({0}) is float and 0.0 <= {0} < 1e18)",
        "reads": _COUNT,
        "corrupt": _COUNT,
        "fenced": _DETAIL,
        "full": _DETAIL,
        "filling": _DETAIL,
    },
    Written: {
        "status": _STATUS,
        "timestamp": _TIMESTAMP,
        "detail": _DETAIL,
        "replaced_manifest": _optional(f"(type({{0}}) is bytes and len({{0}}) <= {MESSAGE_BYTES_MAX})"),
    },
    Locked: {"status": _STATUS, "timestamp": _TIMESTAMP, "entry": "True", "detail": _DETAIL},
    Found: {
        "status": _STATUS,
        "entry": "True",
        "data": _optional(_bytes(MESSAGE_BYTES_MAX)),
        "detail": _DETAIL,
    },
    FoundCatalog: {"status": _STATUS, "catalog": "True", "detail": _DETAIL},
    FoundRows: {"status": _STATUS, "catalog": "True", "items": "True", "truncated": _BOOL, "detail": _DETAIL},
    FoundDigests: {
        "status": _STATUS,
        "digests": f"(type({{0}}) is tuple and len({{0}}) <= {DIGESTS_MAX} and are_digests({{0}}))",
        "detail": _DETAIL,
    },
    FoundEntries: {"status": _STATUS, "entries": "True", "truncated": _BOOL, "detail": _DETAIL},
    FoundStatistics: {"status": _STATUS, "statistics": "True", "detail": _DETAIL},
    GetRings: {"epoch": _COUNT, "start": _COUNT, "newest": _COUNT},
    HeldRing: {"epoch": _COUNT, "size_bytes": _COUNT, "digest": _bytes(16, 16)},
    FoundRings: {
        "status": _STATUS,
        "held": f"(type({{0}}) is tuple and len({{0}}) <= {HELD_RINGS_MAX})",
        "state": _bytes(RING_STATE_BYTES_MAX),
        "data": _bytes(RING_PIECE_BYTES),
        "detail": _DETAIL,
    },
}
"""Fields that say "True" are checked as they are converted, by _CONVERSIONS."""

_CONVERSIONS: dict[type, dict[str, str]] = {
    Locked: {"entry": "None if {0} is None else decode_Entry({0})"},
    Found: {"entry": "None if {0} is None else decode_Entry({0})"},
    FoundCatalog: {"catalog": "None if {0} is None else decode_Catalog({0})"},
    FoundRows: {
        "catalog": "None if {0} is None else decode_Catalog({0})",
        "items": "tuple([decode_item(item) for item in an_array({0})])",
    },
    FoundEntries: {"entries": "tuple([decode_ListedEntry(item) for item in an_array({0})])"},
    FoundStatistics: {"statistics": "None if {0} is None else decode_Statistics({0})"},
    FoundRings: {"held": "tuple([decode_HeldRing(item) for item in {0}])"},
    ListedEntry: {"entry": "decode_state({0})"},
}


# ------------------------------------------------------------------------------------------------ the generated checkers


def _are_items(items: dict[object, object]) -> bool:
    """Whether it is a catalog's metadata: item name -> (value, timestamp)."""
    total_bytes = 0
    for name, item in items.items():
        if type(name) is not bytes or type(item) is not tuple or len(item) != 2:
            return False
        value, timestamp = item
        if type(value) is not bytes or type(timestamp) is not int or not 0 <= timestamp <= TIMESTAMP_MAX:
            return False
        total_bytes += len(name) + len(value)
    return total_bytes <= META_BYTES_MAX and len(items) <= META_ITEMS_MAX


def _are_digests(digests: tuple[object, ...]) -> bool:
    return all(type(digest) is bytes and len(digest) == HASH_BYTES for digest in digests)


def an_array(value: object) -> tuple[object, ...]:
    if type(value) is not tuple:
        raise ProtocolError(f"an array was expected, not {type(value).__name__}")
    return value


def _decode_item(fields: object) -> Row | CommonPrefix:
    if type(fields) is tuple and len(fields) == len(CommonPrefix._fields):
        return DECODERS[CommonPrefix](fields)  # type: ignore[no-any-return]
    return DECODERS[Row](fields)  # type: ignore[no-any-return]


def _decode_state(fields: object) -> Entry | Catalog:
    if type(fields) is tuple and len(fields) == len(Catalog._fields):
        return DECODERS[Catalog](fields)  # type: ignore[no-any-return]
    return DECODERS[Entry](fields)  # type: ignore[no-any-return]


def wrong(kind: str, fields: object) -> ProtocolError:
    """The error for fields that failed their check, naming the first that is wrong."""
    names = list(_FIELD_TESTS[kind])
    if type(fields) is not tuple or len(fields) != len(names):
        return ProtocolError(f"{kind} takes {len(names)} fields, not {fields!r:.80}")
    for name, value in zip(names, fields, strict=True):
        if not _FIELD_TESTS[kind][name](value):
            return ProtocolError(f"{kind}.{name} may not be {value!r:.80}")
    return ProtocolError(f"{kind} may not be {fields!r:.80}")


def _source(kind: type, fields: Mapping[str, str], conversions: Mapping[str, str]) -> str:
    """The Python source of `valid_X` and `decode_X`."""
    name, names = kind.__name__, ", ".join(fields)
    unpack = f"({names},) = fields" if fields else "pass"
    tests = " and ".join(test.format(field) for field, test in fields.items() if test != "True") or "True"
    convert = "".join(f"    {field} = {how.format(field)}\n" for field, how in conversions.items())
    result = f"({names},)" if conversions else "fields"
    return (
        f"def valid_{name}(fields):\n"
        f"    {unpack}\n"
        f"    return {tests}\n"
        f"def decode_{name}(fields):\n"
        f"    if type(fields) is not tuple or len(fields) != {len(fields)}: raise wrong({name!r}, fields)\n"
        f"    {unpack}\n"
        f"    if not ({tests}): raise wrong({name!r}, fields)\n"
        f"{convert}"
        f"    return new({name}, {result})\n"
    )


def _generate() -> dict[str, Any]:
    space: dict[str, Any] = {
        "new": tuple.__new__,
        "wrong": wrong,
        "are_items": _are_items,
        "are_digests": _are_digests,
        "an_array": an_array,
        "decode_item": _decode_item,
        "decode_state": _decode_state,
    }
    for kind, fields in _FIELDS.items():
        space[kind.__name__] = kind
        exec(_source(kind, fields, _CONVERSIONS.get(kind, {})), space)
    return space


_GENERATED = _generate()
DECODERS: dict[type, Callable[[object], Any]] = {kind: _GENERATED[f"decode_{kind.__name__}"] for kind in _FIELDS}
VALIDATORS: dict[type, Callable[[Any], bool]] = {kind: _GENERATED[f"valid_{kind.__name__}"] for kind in _FIELDS}
_FIELD_TESTS: dict[str, dict[str, Callable[[object], bool]]] = {
    kind.__name__: {field: eval(f"lambda value: {test.format('value')}", _GENERATED) for field, test in fields.items()}
    for kind, fields in _FIELDS.items()
}
