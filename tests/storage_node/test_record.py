"""Log records: what is written is what is read, and nothing else is believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage_node.record import (
    BLOB,
    HEADER_BYTES,
    MAGIC,
    OBJECT,
    ROW,
    decode,
    encode,
    moved,
    stated_length,
    verified,
)

SEED = 0x1234_5678_9ABC_DEF0
numbers = st.integers(0, (1 << 64) - 1)
offsets = st.integers(0, (1 << 32) - 1)
records = st.builds(
    lambda *fields: fields,
    offsets,
    offsets,
    st.integers(OBJECT, ROW),
    st.integers(0, 255),
    st.binary(min_size=16, max_size=16),
    numbers,
    numbers,
    numbers,
    numbers,
    st.binary(max_size=50),
    st.binary(max_size=50),
    st.binary(max_size=200),
)


@given(fields=records)
def test_a_record_is_read_as_it_was_written(fields: tuple[int, ...]) -> None:
    """Every field, and the length that its header states."""
    offset, durable, kind, flags, hash_, *versions, key, meta, data = fields
    raw = encode(SEED, *fields)  # type: ignore[arg-type]
    assert stated_length(raw) == len(raw)
    assert verified(raw, SEED, offset)
    record = decode(raw)
    assert record is not None
    assert tuple(record) == (offset, len(raw), durable, kind, flags, *versions, hash_, key, meta, data)


@given(fields=records, at=st.integers(0, 400), flip=st.integers(1, 255))
def test_no_changed_byte_is_believed(fields: tuple[int, ...], at: int, flip: int) -> None:
    """Not in the header, not behind it."""
    raw = bytearray(encode(SEED, *fields))  # type: ignore[arg-type]
    raw[at % len(raw)] ^= flip
    assert not verified(bytes(raw), SEED, fields[0])


@given(fields=records)
def test_a_record_is_believed_in_its_place_alone(fields: tuple[int, ...]) -> None:
    """Not at another offset, not in a segment with another seed, not cut short, not with more behind it."""
    raw = encode(SEED, *fields)  # type: ignore[arg-type]
    assert not verified(raw, SEED, fields[0] + 1)
    assert not verified(raw, SEED + 1, fields[0])
    assert not verified(raw[:-1], SEED, fields[0])
    assert not verified(raw + b"\0", SEED, fields[0])


@given(fields=records, offset=offsets, durable=offsets)
def test_a_moved_record_says_the_same_elsewhere(fields: tuple[int, ...], offset: int, durable: int) -> None:
    """Only offset and durable differ."""
    record = decode(encode(SEED, *fields))  # type: ignore[arg-type]
    assert record is not None
    copy = moved(record, SEED + 1, offset, durable)
    assert verified(copy, SEED + 1, offset)
    assert decode(copy) == record._replace(offset=offset, durable=durable)


def test_what_states_nonsense_is_no_record() -> None:
    """Too short, no magic, an impossible length, an unknown kind, lengths that contradict each other."""
    raw = encode(SEED, 64, 64, BLOB, 0, b"h" * 16, 1, 1, 1, 1, b"key", b"meta", b"data")
    assert stated_length(raw[: HEADER_BYTES - 1]) == 0
    assert stated_length(b"XXXX" + raw[4:]) == 0
    assert stated_length(MAGIC + bytes(200)) == 0
    assert stated_length(MAGIC + b"\xff" * 200) == 0
    assert decode(raw[:24] + b"\x63" + raw[25:]) is None
    assert decode(raw[:26] + b"\xff\xff" + raw[28:]) is None
