"""Invariant tested: an operation or answer arrives as it was sent, of its own types, or as ProtocolError."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_node import codec, fields, operations
from storage_node.codec import (
    ROUTES,
    decode_answers,
    decode_message,
    decode_requests,
    encode_answer,
    pack,
    refusal,
)
from storage_node.fields import DECODERS, OpenRead, Ping, PutBlobHeader
from storage_node.frames import BATCH_COUNT_MAX, MESSAGE_BYTES_MAX, FrameReader, ProtocolError, batch_frame
from storage_node.operations import (
    CommonPrefix,
    FoundRows,
    GetObject,
    PutObject,
    PutRow,
    Row,
    Status,
    Written,
)
from tests.storage_node.strategies import answers, plain_values
from tests.storage_node.strategies import operations as any_operation

ANSWER_TYPES = {route.answer for route in ROUTES.values()}


def same_types(left: Any, right: Any) -> bool:
    """Whether two values are of the same types all the way down (IntEnums travel as ints)."""
    if isinstance(left, tuple):
        return type(left) is type(right) and all(map(same_types, left, right))
    return isinstance(left, type(right))


@given(st.lists(any_operation, max_size=6))
def test_requests_round_trip(requests: list[Any]) -> None:
    """A batch of operations comes out equal, of the same types, with its request ids."""
    frame = batch_frame([pack((index, ROUTES[type(op)].opcode, op)) for index, op in enumerate(requests)])
    (payload,) = FrameReader(1 << 20).feed(frame)
    decoded = decode_requests(payload)
    assert decoded == list(enumerate(requests))
    assert all(same_types(left, right) for (_, left), right in zip(decoded, requests, strict=True))
    assert all(refusal(op) == "" for op in requests)


@given(answers)
def test_answers_round_trip(answer: Any) -> None:
    """An answer comes out equal, nested entries and rows as their own types."""
    (payload,) = FrameReader(1 << 24).feed(batch_frame([encode_answer(7, answer)]))
    ((request_id, raw),) = decode_answers(payload)
    decoded = DECODERS[type(answer)](raw)
    assert request_id == 7
    assert decoded == answer
    assert same_types(decoded, answer)


@given(st.binary(max_size=200))
def test_random_bytes_are_protocol_errors(payload: bytes) -> None:
    """Whatever the bytes are, decoding gives a value or ProtocolError."""
    for decode in (decode_requests, decode_answers, lambda data: decode_message(data, {1: PutBlobHeader})):
        with contextlib.suppress(ProtocolError):
            decode(payload)


@given(st.integers(-2, 20), plain_values)
def test_random_fields_of_requests_are_protocol_errors(opcode: int, value: Any) -> None:
    """Well-formed msgpack of the wrong shape gives ProtocolError and nothing else."""
    for request in ((1, opcode, value), value, (value, opcode, ()), (1, value, (value,))):
        with contextlib.suppress(ProtocolError):
            decode_requests(msgpack.packb((request,)))


@given(st.sampled_from(sorted(DECODERS, key=lambda kind: kind.__name__)), st.lists(plain_values, max_size=21))
def test_random_fields_of_any_type_are_protocol_errors(kind: type, values: list[Any]) -> None:
    """Every generated decoder gives its own type or ProtocolError."""
    with contextlib.suppress(ProtocolError):
        assert type(DECODERS[kind](tuple(values))) is kind


@given(any_operation, st.data())
def test_one_wrong_field_is_named(operation: Any, data: st.DataObject) -> None:
    """A field of a wrong type is refused, by the client as by the server, with its name."""
    if not operation._fields:
        return
    index = data.draw(st.integers(0, len(operation) - 1))
    wrong = operation._replace(**{operation._fields[index]: 1.5})
    kind = type(operation)
    assert f"{kind.__name__}.{operation._fields[index]}" in refusal(wrong)
    with pytest.raises(ProtocolError, match=operation._fields[index]):
        decode_requests(msgpack.packb(((1, ROUTES[kind].opcode, wrong),)))


def test_the_table_describes_every_type_of_the_vocabulary() -> None:
    """Each NamedTuple of operations.py has a checker for each of its fields, in their order."""
    vocabulary = [
        value
        for module in (operations, fields)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")
    ]
    assert len(vocabulary) > 30
    for kind in vocabulary:
        assert tuple(fields._FIELDS[kind]) == kind._fields, kind


def test_every_operation_has_a_route() -> None:
    """No operation of the vocabulary is forgotten on the wire, and no two share an opcode."""
    assert set(ROUTES) == {*operations.Operation.__args__, Ping, operations.GetRings}
    assert {route.answer for route in ROUTES.values()} == set(operations.Answer.__args__)
    assert len({route.opcode for route in ROUTES.values()}) == len(ROUTES)
    assert set(operations.ReadOperation.__args__) == codec.READS


@pytest.mark.parametrize(
    "wrong",
    [
        PutObject(b"h" * 15, b"/a", 1, b"", b""),
        PutObject(b"h" * 16, b"", 1, b"", b""),
        PutObject(b"h" * 16, b"/a" * 2000, 1, b"", b""),
        PutObject(b"h" * 16, b"/a", -1, b"", b""),
        PutObject(b"h" * 16, b"/a", 1 << 64, b"", b""),
        PutObject(b"h" * 16, b"/a", 1, b"m" * 70_000, b""),
        PutObject(b"h" * 16, b"/a", 1, b"", b"d" * (128 * 1024 + 1)),
        PutObject(b"h" * 16, b"/a", True, b"", b""),
        PutRow(0, b"h" * 16, b"n", 1, 1, False, 1, 1, b""),
        PutRow(1, b"h" * 16, b"n" * 3000, 1, 1, False, 1, 1, b""),
        PutRow(1, b"h" * 16, b"n", 1, 1, False, -1, 1, b""),
        GetObject(b"h" * 16, b"/a", None),  # type: ignore[arg-type]
    ],
)
def test_limits_are_kept(wrong: Any) -> None:
    """What is too long, too short, out of range or of another type is not sent and not taken."""
    assert refusal(wrong)
    route = ROUTES[type(wrong)]
    if wrong[2] != 1 << 64:
        with pytest.raises(ProtocolError):
            decode_requests(msgpack.packb(((1, route.opcode, wrong),)))


def test_an_array_may_not_claim_more_than_a_batch() -> None:
    """A few bytes that announce millions of items are refused before memory is set aside for them."""
    with pytest.raises(ProtocolError):
        decode_requests(b"\xdd" + (1 << 31).to_bytes(4, "big"))
    with pytest.raises(ProtocolError):
        decode_requests(msgpack.packb(((1, 0, ()),) * (BATCH_COUNT_MAX + 1)))


def test_a_page_too_long_for_a_message_is_cut_short() -> None:
    """The answer to a listing is truncated rather than lost when its rows are long."""
    row = Row(b"n", 1, 1, False, 1, 1, b"p" * 60_000)
    page = FoundRows(Status.FOUND, None, (CommonPrefix(b"a"), *[row] * 500))
    packed = encode_answer(1, page)
    assert len(packed) <= MESSAGE_BYTES_MAX
    ((_, raw),) = decode_answers(b"\x91" + packed)
    decoded = DECODERS[FoundRows](raw)
    assert decoded.truncated
    assert 100 < len(decoded.items) < 501
    assert decoded.items == page.items[: len(decoded.items)]


def test_a_write_stays_applied_however_long_what_it_replaced() -> None:
    """An answer that does not fit a message never turns APPLIED into a refusal."""
    packed = encode_answer(1, Written(Status.APPLIED, 5, "", b"m" * (MESSAGE_BYTES_MAX + 1)))
    ((_, raw),) = decode_answers(b"\x91" + packed)
    decoded = DECODERS[Written](raw)
    assert (decoded.status, decoded.timestamp, decoded.replaced_manifest) == (Status.APPLIED, 5, None)


def test_bulk_messages_round_trip() -> None:
    """A message of a bulk connection arrives with its transfer id and kind; an unexpected kind is refused."""
    message = OpenRead(b"h" * 16, b"/a/c/o", None, 0, None)
    assert decode_message(pack((3, 2, message)), {2: OpenRead}) == (3, 2, message)
    with pytest.raises(ProtocolError, match="unexpected"):
        decode_message(pack((3, 2, message)), {1: OpenRead})
