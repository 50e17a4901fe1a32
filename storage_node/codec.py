"""Operations and answers as messages: packed with msgpack, unpacked and checked field by field.

Messages, each one element of the array in a frame (see frames.py):

    request:  [request id, opcode, [field, ...]]
    answer:   [request id, [field, ...]]            of the type that the request's operation is answered with

The fields are the NamedTuple itself as msgpack packs it; fields.py says what each must be. Opcode 0 is a ping: no fields,
answered `Written(APPLIED)`. On a bulk connection a message is `[transfer id, kind, [field, ...]]`, alone in its frame.

The client checks its requests with the same checkers before it sends them, so that a caller's mistake is answered REFUSED
and costs nobody else the connection.

Rejected: flat arrays (`[id, opcode, field, ...]` needs a slice and a copy at both ends); a type in the answer (the request
says it already).

Invariants: decode_* return values of exactly the declared types, within the limits, or raise ProtocolError; nothing else
is ever raised, whatever the bytes are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgpack

from storage_node.fields import ARRAY_COUNT_MAX, DECODERS, META_ITEMS_MAX, VALIDATORS, Ping, an_array, wrong
from storage_node.frames import BATCH_COUNT_MAX, MESSAGE_BYTES_MAX, Buffer, ProtocolError
from storage_node.operations import (
    Answer,
    DeleteCatalog,
    DeleteObject,
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
    JoinCatalog,
    ListEntries,
    ListRows,
    Locked,
    LockObject,
    MarkFilled,
    Operation,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Status,
    UnlockObject,
    UpdateObject,
    Written,
)


class Route(NamedTuple):
    """How one type of operation travels."""

    opcode: int
    valid: Callable[[Any], bool]
    """Whether an operation keeps to the limits."""
    answer: Callable[..., Answer]
    """The type of its answer; all take `status` and `detail`."""
    decode_answer: Callable[[object], Answer]


_ANSWERS: dict[type, type] = {
    Ping: Written,
    PutObject: Written,
    DeleteObject: Written,
    UpdateObject: Written,
    LockObject: Locked,
    UnlockObject: Written,
    PutCatalog: Written,
    DeleteCatalog: Written,
    PutRow: Written,
    GetObject: Found,
    GetCatalog: FoundCatalog,
    ListRows: FoundRows,
    GetDigests: FoundDigests,
    ListEntries: FoundEntries,
    GetStatistics: FoundStatistics,
    JoinCatalog: Written,
    ForgetObject: Written,
    ForgetRow: Written,
    ForgetCatalog: Written,
    RewriteRecord: Written,
    GetRings: FoundRings,
    MarkFilled: Written,
}
"""In the order of the opcodes: new ones go to the end."""

ROUTES: dict[type, Route] = {
    operation: Route(opcode, VALIDATORS[operation], answer, DECODERS[answer])
    for opcode, (operation, answer) in enumerate(_ANSWERS.items())
}
_REQUEST_DECODERS: dict[int, Callable[[object], Operation | Ping | GetRings]] = {
    route.opcode: DECODERS[operation] for operation, route in ROUTES.items()
}
READS: frozenset[type] = frozenset({GetObject, GetCatalog, ListRows, GetDigests, ListEntries, GetStatistics})

_packer = msgpack.Packer(autoreset=True)
pack: Callable[[object], bytes] = _packer.pack
"""Any message: pack((request_id, opcode, operation)), pack((request_id, answer))."""


def refusal(operation: Operation | Ping | GetRings) -> str:
    """What is wrong with an operation, in a sentence; empty if it may be sent."""
    if ROUTES[type(operation)].valid(operation):
        return ""
    return str(wrong(type(operation).__name__, tuple(operation)))


def _unpack(payload: Buffer, array_count_max: int) -> object:
    """Unpack one msgpack value. The limit is on each array, so that a short frame can't claim gigabytes."""
    try:
        return msgpack.unpackb(payload, use_list=False, max_array_len=array_count_max, max_map_len=META_ITEMS_MAX)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        # ValueError covers msgpack's own errors of format, depth, limits, left-over bytes, and broken UTF-8.
        raise ProtocolError(f"not a msgpack value: {error!r:.80}") from None


def decode_requests(payload: Buffer) -> list[tuple[int, Any]]:
    """The (request id, Operation or Ping) pairs of one frame of a client. Raises ProtocolError."""
    requests: list[tuple[int, Any]] = []
    decoders = _REQUEST_DECODERS
    try:
        messages: tuple[Any, ...] = an_array(_unpack(payload, BATCH_COUNT_MAX))
        for request_id, opcode, fields in messages:
            if type(request_id) is not int or type(opcode) is not int or request_id < 0:
                raise ProtocolError(f"request id {request_id!r:.40} or opcode {opcode!r:.40} is not a number")
            requests.append((request_id, decoders[opcode](fields)))
    except (ValueError, TypeError):
        raise ProtocolError("a request is not [request id, opcode, fields]") from None
    except KeyError as error:
        raise ProtocolError(f"no operation has opcode {error}") from None
    return requests


def decode_answers(payload: Buffer) -> list[tuple[int, object]]:
    """The (request id, fields) pairs of one frame of a server; the request's Route decodes the fields.

    Raises ProtocolError.
    """
    answers: list[tuple[int, object]] = []
    try:
        messages: tuple[Any, ...] = an_array(_unpack(payload, ARRAY_COUNT_MAX))
        for request_id, fields in messages:
            if type(request_id) is not int:
                raise ProtocolError(f"request id {request_id!r:.40} is not a number")
            answers.append((request_id, fields))
    except (ValueError, TypeError):
        raise ProtocolError("an answer is not [request id, fields]") from None
    return answers


def encode_answer(request_id: int, answer: Answer) -> bytes:
    """One packed answer. A page too long for a message is cut short and says `truncated`; else REFUSED takes its place."""
    packed = pack((request_id, answer))
    while len(packed) > MESSAGE_BYTES_MAX:
        if isinstance(answer, FoundRows) and len(answer.items) > 1:
            answer = answer._replace(items=answer.items[: len(answer.items) // 2], truncated=True)
        elif isinstance(answer, FoundEntries) and len(answer.entries) > 1:
            answer = answer._replace(entries=answer.entries[: len(answer.entries) // 2], truncated=True)
        elif isinstance(answer, Written):
            answer = answer._replace(replaced_manifest=None, detail="the replaced manifest is too long to be told")
        else:
            answer = type(answer)(Status.REFUSED, detail=f"the answer has {len(packed)} bytes")
        packed = pack((request_id, answer))
    return packed


# --------------------------------------------------------------------------------------------- messages of bulk transfers


def decode_message(payload: Buffer, kinds: Mapping[int, type]) -> tuple[int, int, Any]:
    """The (transfer id, kind, value) of a bulk connection's message; `kinds` are those expected. Raises ProtocolError."""
    message = _unpack(payload, 64)
    if type(message) is not tuple or len(message) != 3:
        raise ProtocolError("a message is not [transfer id, kind, fields]")
    transfer_id, kind, fields = message
    if type(transfer_id) is not int or type(kind) is not int or transfer_id < 0 or kind not in kinds:
        raise ProtocolError(f"unexpected message {transfer_id!r:.40} {kind!r:.40}")
    return transfer_id, kind, DECODERS[kinds[kind]](fields)


def decode_fields(payload: Buffer, count: int) -> tuple[object, ...]:
    """An array of `count` plain values, not checked further (the handshake's). Raises ProtocolError."""
    fields = _unpack(payload, 64)
    if type(fields) is not tuple or len(fields) != count:
        raise ProtocolError(f"{count} fields were expected")
    return fields
