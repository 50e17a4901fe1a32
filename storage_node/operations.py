"""What one can ask of a device, and what it answers: the vocabulary of the storage node.

Problem: a proxy asks the same things of a device in its own process's reach (LMDB and `pread`), of one behind a Unix
socket and of one behind TCP; the replicator and the auditor ask more of the same. Three descriptions would drift apart.

Idea: each request and each answer is one NamedTuple of plain values (int, bytes, bool, None, nested tuples of them). The
device takes and gives these tuples; the wire packs them as msgpack arrays behind an opcode and unpacks them, checked, into
the same types. There is no second form.

Terms. A *hash* is the 16 bytes that the ring makes of a name; the ring's partition is a prefix of its bits, so a range of
partitions is a range of hashes and a device needs to compute neither. A *catalog* is an account or a container: its own
timestamps and metadata, and the *rows* that list what is in it (an account's rows are containers, a container's rows
are objects). An *entry* is an object's current state: data or a tombstone.

Invariants:
- Newest wins, by timestamp, for entries, catalogs and rows alike. Applying an operation twice, or two operations in either
  order, gives the same state.
- An outcome that says APPLIED is given after the record is on stable storage, never before.
- Nothing of one device depends on another device.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, TypeAlias

HASH_BYTES = 16
KEY_BYTES_MAX = 2048
"""A key is b"/account[/container[/object]]"; names of upload parts are longer than any name of a client."""
ROW_NAME_BYTES_MAX = 2048
"""Longer than any client's name may be, since upload rows carry a name, an upload id and a part number."""
META_BYTES_MAX = 64 * 1024
"""Metadata of one object or catalog, packed. Clients are limited to far less by the proxy."""
SMALL_BYTES_MAX = 128 * 1024
"""Object data that travels inside a frame. What is longer goes over a bulk connection."""
LIST_ROWS_MAX = 10_000
"""Rows of one answer to ListRows."""
RING_PIECE_BYTES = 1024 * 1024
"""Of a ring, in one answer to GetRings."""
RING_STATE_BYTES_MAX = 64 * 1024
HELD_RINGS_MAX = 64


class Space(IntEnum):
    """Which of the three kinds of named things; each is placed by its own hash."""

    OBJECT = 0
    CONTAINER = 1
    ACCOUNT = 2


class Status(IntEnum):
    """How an operation ended. What is not APPLIED or FOUND changed nothing on the device."""

    APPLIED = 0
    """Done, and on stable storage."""
    FOUND = 1
    """A read found it."""
    MISSING = 2
    """There is no such object or catalog here and never was, or its tombstone is gone."""
    NEWER = 3
    """The device holds something at least as new; `timestamp` says how new. Stamp again and retry, or leave it."""
    NO_CATALOG = 4
    """A row for a catalog that this device does not hold, or holds as deleted."""
    NOT_EMPTY = 5
    """A catalog with live rows is not deleted."""
    LOCKED = 6
    """Another conditional write holds the object; `timestamp` is that write's."""
    LOCK_LOST = 7
    """The lock that the write names is not held (expired, or the device restarted): prepare again."""
    FULL = 8
    """The device has no room, and keeps what is left for compaction and tombstones."""
    FENCED = 9
    """The device takes no writes: a sync failed, or an operator took it out."""
    CORRUPT = 10
    """What is on the disk does not have the checksum it should have. Ask another replica."""
    REFUSED = 11
    """The request breaks a rule (too long, wrong type, hash collision); `detail` says which."""
    BUSY = 12
    """Too many requests wait. Try another replica, or later."""
    UNREACHABLE = 13
    """Made by the client, never sent: no connection, or no answer in time. The write may or may not have been done."""


# ---------------------------------------------------------------------------------------------------------------- writes


class PutObject(NamedTuple):
    """Store a whole small object. -> Written"""

    hash: bytes
    key: bytes
    timestamp: int
    meta: bytes
    """Opaque to the device: the proxy's msgpack'ed map. Kept in the index, so that HEAD reads no log."""
    data: bytes
    """At most SMALL_BYTES_MAX; the bulk transfer stores longer ones by the same rules."""
    manifest: bool = False
    """The data is a manifest: whoever replaces this object is given it in `Written.replaced_manifest`."""
    lock: int | None = None
    """The timestamp of the LockObject that precedes this write, for a conditional one."""
    meta_timestamp: int = 0
    """Of the metadata, where it was updated after the data was written (a replica's copy). 0: it came with the data."""


class DeleteObject(NamedTuple):
    """Leave a tombstone. -> Written (MISSING if there was nothing to delete: the tombstone is written all the same)"""

    hash: bytes
    key: bytes
    timestamp: int
    lock: int | None = None


class UpdateObject(NamedTuple):
    """Replace the metadata of the object written at `data_timestamp`. -> Written

    MISSING if the device does not hold that very version (the replicator will bring it, metadata included).
    LOCKED while a LockObject holds the object.
    """

    hash: bytes
    key: bytes
    data_timestamp: int
    timestamp: int
    meta: bytes


class LockObject(NamedTuple):
    """Prepare a conditional write: hold the object for `timestamp` and say what is there. -> Locked

    While it is held, another lock and an update of the metadata are answered LOCKED, and an unconditional write with a
    timestamp before the lock's is answered NEWER (so that it stamps again and comes after). Locks live in memory, for
    `lease_ms` at most.
    """

    hash: bytes
    key: bytes
    timestamp: int
    lease_ms: int


class UnlockObject(NamedTuple):
    """Let go of a lock without writing. -> Written (APPLIED whether or not it was held)"""

    hash: bytes
    timestamp: int


class PutCatalog(NamedTuple):
    """Create an account or container, or merge metadata into it. -> Written

    `meta` maps an item's name to (value, timestamp); each item is merged newest-first, and an empty value is a removal
    that is remembered. With `create` False a catalog that is missing or deleted is answered MISSING.
    `created_timestamp` of the catalog becomes `timestamp` only where it was missing or deleted before.
    """

    space: int
    hash: bytes
    key: bytes
    timestamp: int
    meta: dict[bytes, tuple[bytes, int]]
    create: bool = True


class DeleteCatalog(NamedTuple):
    """Delete an empty account or container. -> Written (NOT_EMPTY, MISSING)"""

    space: int
    hash: bytes
    key: bytes
    timestamp: int


class PutRow(NamedTuple):
    """List (or unlist) one name in a catalog. -> Written (NO_CATALOG, NEWER)

    A row's version is (timestamp, sub_timestamp), compared in that order: the first is when the thing was created or
    deleted, the second when what the row says of it last changed. A late report of a container's totals (sub_timestamp)
    can so never bring back a container that was deleted since (timestamp).
    """

    space: int
    """The catalog's: CONTAINER for a row that lists an object, ACCOUNT for one that lists a container."""
    hash: bytes
    """The catalog's."""
    name: bytes
    timestamp: int
    sub_timestamp: int
    deleted: bool
    object_count: int
    """Objects: 1 for an object's row, the container's object count for a container's."""
    size_bytes: int
    payload: bytes
    """Opaque: what a listing says of it beside the name, msgpack'ed by the proxy."""
    replica: bool = False
    """A tombstone row as another replica has it: taken also where the catalog is deleted, so that replicas end alike."""


class JoinCatalog(NamedTuple):
    """Bring a catalog to at least the state that another replica has: lives joined, newest items. -> Written

    Creates it where it is missing, even as deleted. NOT_EMPTY where it would delete a catalog with live rows.
    """

    space: int
    hash: bytes
    key: bytes
    created_timestamp: int
    deleted_timestamp: int
    touched_timestamp: int
    meta: dict[bytes, tuple[bytes, int]]


class ForgetObject(NamedTuple):
    """Remove an entry of exactly this version, without a tombstone. -> Written (MISSING, NEWER: another version)

    For what was handed over to the devices that should hold it, for tombstones that all of them have, and for what turned
    out rotten and is to be fetched again.
    """

    hash: bytes
    key: bytes
    timestamp: int
    meta_timestamp: int


class ForgetRow(NamedTuple):
    """Remove a row of exactly this version, without a tombstone. -> Written (MISSING, NEWER: another version)"""

    space: int
    hash: bytes
    name: bytes
    timestamp: int
    sub_timestamp: int


class ForgetCatalog(NamedTuple):
    """Remove a catalog of exactly this state that has no rows left. -> Written (MISSING, NEWER, NOT_EMPTY)"""

    space: int
    hash: bytes
    key: bytes
    created_timestamp: int
    deleted_timestamp: int
    touched_timestamp: int
    meta: dict[bytes, tuple[bytes, int]]


class RewriteRecord(NamedTuple):
    """Write the log record of a tombstone, a catalog or (with a name) a row anew, from the index. -> Written

    For records that turned out rotten: nothing of the state changes. REFUSED for an object, whose data only a replica has.
    """

    space: int
    hash: bytes
    name: bytes = b""


class MarkFilled(NamedTuple):
    """The device has all again that it acknowledged before it was made anew or damaged. -> Written (NEWER: another filling)

    Asked by who has compared all that it holds with the other primaries since `filling` was read from its statistics.
    """

    filling: str


WriteOperation: TypeAlias = (
    PutObject
    | DeleteObject
    | UpdateObject
    | LockObject
    | UnlockObject
    | PutCatalog
    | DeleteCatalog
    | PutRow
    | JoinCatalog
    | ForgetObject
    | ForgetRow
    | ForgetCatalog
    | RewriteRecord
    | MarkFilled
)


class Written(NamedTuple):
    """The answer to every write but LockObject."""

    status: int
    timestamp: int = 0
    """NEWER, LOCKED: what is held here. APPLIED: the timestamp of what was replaced, 0 if there was nothing live."""
    detail: str = ""
    replaced_manifest: bytes | None = None


class Locked(NamedTuple):
    """The answer to LockObject."""

    status: int
    """APPLIED (held; `entry` is what is there), LOCKED or NEWER (`timestamp`), or an error."""
    timestamp: int = 0
    entry: Entry | None = None
    detail: str = ""


# ----------------------------------------------------------------------------------------------------------------- reads


class GetObject(NamedTuple):
    """An object's entry; with `data`, and if it is small, its bytes as well. -> Found"""

    hash: bytes
    key: bytes
    data: bool


class GetCatalog(NamedTuple):
    """An account's or container's own state. -> FoundCatalog"""

    space: int
    hash: bytes
    key: bytes


class ListRows(NamedTuple):
    """A page of a catalog's rows, in the order of their names' bytes. -> FoundRows

    Names n with start <= n < end (None: no bound), that begin with `prefix`, at most `limit` of them, from the end if
    `reverse`. With a `delimiter` (one or more bytes), the names that hold it behind the prefix are given as one
    CommonPrefix for each distinct text up to and with it, which counts as one towards the limit. Tombstone rows are left
    out unless `deleted`; with `deleted` no delimiter is allowed.
    """

    space: int
    hash: bytes
    key: bytes
    start: bytes = b""
    end: bytes | None = None
    prefix: bytes = b""
    delimiter: bytes = b""
    limit: int = LIST_ROWS_MAX
    reverse: bool = False
    deleted: bool = False


class GetDigests(NamedTuple):
    """XOR digests below a hash prefix. -> FoundDigests

    `bits` is the length of the prefix in bits, `prefix` its value; the answer has 2**fan_out_bits digests of 16 bytes, one
    for each continuation of the prefix.
    """

    space: int
    bits: int
    prefix: int
    fan_out_bits: int


class ListEntries(NamedTuple):
    """What a device holds in a range of hashes, with versions, for replication and audit. -> FoundEntries"""

    space: int
    start: bytes
    end: bytes | None
    limit: int


class GetStatistics(NamedTuple):
    """What the device says of itself. -> FoundStatistics"""


ReadOperation: TypeAlias = GetObject | GetCatalog | ListRows | GetDigests | ListEntries | GetStatistics


class Entry(NamedTuple):
    """An object as one device has it."""

    timestamp: int
    """Of the data, or of the deletion."""
    meta_timestamp: int
    """Of the metadata: at least `timestamp`."""
    deleted: bool
    size_bytes: int
    meta: bytes
    manifest: bool = False


class Found(NamedTuple):
    """The answer to GetObject: FOUND (tombstones too: look at entry.deleted), MISSING, CORRUPT or an error."""

    status: int
    entry: Entry | None = None
    data: bytes | None = None
    """None unless asked for, and where the object is too large for a frame: then open a bulk read."""
    detail: str = ""


class Catalog(NamedTuple):
    """An account or container as one device has it. It is live while created_timestamp > deleted_timestamp."""

    created_timestamp: int
    deleted_timestamp: int
    meta: dict[bytes, tuple[bytes, int]]
    row_count: int
    """Live rows."""
    object_count: int
    """The sum of the live rows' object counts."""
    size_bytes: int
    digest: bytes
    """16 bytes: XOR over all rows, deleted ones too, of xxh3_128(name, versions). Equal digests: equal rows."""
    newest_row_timestamp: int = 0
    """The latest timestamp or sub_timestamp of any row applied here: of two replicas that differ, whose totals are later."""
    touched_timestamp: int = 0
    """The latest creation, whether or not the catalog was there already: a deletion before it came too late."""


class FoundCatalog(NamedTuple):
    """The answer to GetCatalog: FOUND (deleted ones too: compare the timestamps), MISSING or an error."""

    status: int
    catalog: Catalog | None = None
    detail: str = ""


class Row(NamedTuple):
    """One line of a listing."""

    name: bytes
    timestamp: int
    sub_timestamp: int
    deleted: bool
    object_count: int
    size_bytes: int
    payload: bytes


class CommonPrefix(NamedTuple):
    """Names that were rolled up at a delimiter."""

    prefix: bytes


class FoundRows(NamedTuple):
    """The answer to ListRows: the catalog and the page are of one snapshot."""

    status: int
    catalog: Catalog | None = None
    items: Sequence[Row | CommonPrefix] = ()
    """A tuple, or from a reader on the device's machine rows as they are stored (stored_rows.py)."""
    truncated: bool = False
    """There is more in the range behind the last item."""
    detail: str = ""


class FoundDigests(NamedTuple):
    """The answer to GetDigests."""

    status: int
    digests: tuple[bytes, ...] = ()
    detail: str = ""


class ListedEntry(NamedTuple):
    """One line of ListEntries."""

    hash: bytes
    key: bytes
    entry: Entry | Catalog


class FoundEntries(NamedTuple):
    """The answer to ListEntries."""

    status: int
    entries: tuple[ListedEntry, ...] = ()
    truncated: bool = False
    detail: str = ""


class Statistics(NamedTuple):
    """One device's figures, since its process started where they are counts."""

    uuid: bytes
    name: str
    total_bytes: int
    free_bytes: int
    log_bytes: int
    log_live_bytes: int
    blob_bytes: int
    blob_count: int
    object_count: int
    tombstone_count: int
    container_count: int
    account_count: int
    row_count: int
    segment_count: int
    recent_count: int
    writes: int
    syncs: int
    sync_seconds: float
    reads: int
    corrupt: int
    fenced: str
    """Why the device takes no writes until it is released; empty while it does."""
    full: str = ""
    """Why it takes no data, or no deletions either, for want of room; empty while there is enough."""
    filling: str = ""
    """While it may lack what it once acknowledged: what this filling is called (see MarkFilled). Empty: it is filled."""


class FoundStatistics(NamedTuple):
    """The answer to GetStatistics."""

    status: int
    statistics: Statistics | None = None
    detail: str = ""


class GetRings(NamedTuple):
    """Which rings are in force at the server's node, and a piece of one of them. -> FoundRings

    Rings are opaque here: bytes with an epoch. This is of the server and not of a device.
    """

    epoch: int = 0
    """Of the ring whose bytes are wanted; 0: none's."""
    start: int = 0
    newest: int = 0
    """Epoch of the newest ring that the asker has; 0 if it has none."""


class HeldRing(NamedTuple):
    """A ring that is in force at a node."""

    epoch: int
    size_bytes: int
    digest: bytes
    """xxh3_128 of its bytes."""


class FoundRings(NamedTuple):
    """The answer to GetRings: FOUND, MISSING (the piece that was asked for) or an error."""

    status: int
    held: tuple[HeldRing, ...] = ()
    """Newest first."""
    state: bytes = b""
    """What the node knows of moves between them; as opaque as they are. Empty: nothing."""
    data: bytes = b""
    """At most RING_PIECE_BYTES from `start` on."""
    detail: str = ""


Operation: TypeAlias = WriteOperation | ReadOperation
Answer: TypeAlias = (
    Written | Locked | Found | FoundCatalog | FoundRows | FoundDigests | FoundEntries | FoundStatistics | FoundRings
)
