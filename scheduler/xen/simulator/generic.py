"""The messages that every class has for its fields, from the schema: getters, setters, entries of maps and sets, records.

Setters exist for what clients may set at any time; where the datamodel makes a setter a message of its own
(`VM.set_memory`), it is in `calls/`.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.messages import REQUIRED, Message, Parameter
from scheduler.xen.simulator.pool import Call
from scheduler.xen.simulator.query import parse_query
from scheduler.xen.simulator.schema import CLASSES, ClassSchema, Field, check, parse_type

_UNLISTED: Final = frozenset({"session"})
"""Classes that are not listed: a session tells of itself only."""


def _parameter(name: str, words: str) -> Parameter:
    return Parameter(name, words, parse_type(words), REQUIRED)


def _make(name: str, parameters: list[tuple[str, str]], result: str, serve: Callable[..., Any]) -> Message:
    return Message(name, tuple(_parameter(*parameter) for parameter in parameters), result, serve, asynchronous=False)


def _of_class(schema: ClassSchema) -> Iterator[Message]:
    cls = schema.name
    ref, record = f"{cls} ref", f"{cls} record"

    def get_record(_call: Call, row: Row) -> Mapping[str, Any]:
        return row.record()

    def by_uuid(call: Call, uuid: str) -> Row:
        return call.database.by_uuid(cls, uuid)

    def by_name(call: Call, label: str) -> list[Row]:
        return [row for row in call.database.rows(cls) if row["name_label"] == label]

    def get_all(call: Call) -> list[Row]:
        return call.database.rows(cls)

    def get_all_records(call: Call) -> dict[str, Any]:
        return {row.ref: row.record() for row in call.database.rows(cls)}

    def where(call: Call, expression: str) -> dict[str, Any]:
        matches = parse_query(expression, schema)
        return {row.ref: row.record() for row in call.database.rows(cls) if matches(row)}

    yield _make(f"{cls}.get_record", [("self", ref)], record, get_record)
    yield _make(f"{cls}.get_by_uuid", [("uuid", "string")], ref, by_uuid)
    if cls not in _UNLISTED:
        records = f"({ref} -> {record}) map"
        yield _make(f"{cls}.get_all", [], f"{ref} set", get_all)
        yield _make(f"{cls}.get_all_records", [], records, get_all_records)
        yield _make(f"{cls}.get_all_records_where", [("expr", "string")], records, where)
    if "name_label" in schema.fields and cls != "pool":
        yield _make(f"{cls}.get_by_name_label", [("label", "string")], f"{ref} set", by_name)
    if cls == "message":
        return
    for field in schema.fields.values():
        yield _make(f"{cls}.get_{field.name}", [("self", ref)], field.words, _getter(field))
        if field.access == "rw":
            yield from _setters(cls, field)


def _getter(field: Field) -> Callable[..., Any]:
    get = operator.itemgetter(field.name)
    return lambda _call, row: get(row)


def _setters(cls: str, field: Field) -> Iterator[Message]:
    ref = f"{cls} ref"
    name = field.name

    def put(call: Call, row: Row, value: Any) -> None:
        value = value.ref if isinstance(value, Row) else value
        _assert_may_set(call, row, name, value)
        call.database.set(row, **{name: value})

    yield _make(f"{cls}.set_{name}", [("self", ref), ("value", field.words)], "void", put)
    if field.type.kind == "map":
        yield from _entry_setters(cls, field)
    elif field.type.kind == "set" and field.type.of is not None:

        def add(call: Call, row: Row, value: Any) -> None:
            if value not in row[name]:
                call.database.set(row, **{name: (*row[name], value)})

        def remove(call: Call, row: Row, value: Any) -> None:
            call.database.set(row, **{name: tuple(item for item in row[name] if item != value)})

        words = field.words.removesuffix(" set")
        yield _make(f"{cls}.add_{name}", [("self", ref), ("value", words)], "void", add)
        yield _make(f"{cls}.remove_{name}", [("self", ref), ("value", words)], "void", remove)


def _entry_setters(cls: str, field: Field) -> Iterator[Message]:
    ref, name = f"{cls} ref", field.name
    match = re.fullmatch(r"\((.+?) -> (.+)\) map", field.words)
    assert match is not None
    key_words, value_words = match.groups()

    def add(call: Call, row: Row, key: Any, value: Any) -> None:
        if key in row[name]:
            raise Failure("MAP_DUPLICATE_KEY", cls, name, row.ref, str(key))
        call.database.set(row, **{name: {**row[name], key: value}})

    def remove(call: Call, row: Row, key: Any) -> None:
        call.database.set(row, **{name: {old: item for old, item in row[name].items() if old != key}})

    parameters = [("self", ref), ("key", key_words)]
    yield _make(f"{cls}.add_to_{name}", [*parameters, ("value", value_words)], "void", add)
    yield _make(f"{cls}.remove_from_{name}", parameters, "void", remove)


def _assert_may_set(call: Call, row: Row, name: str, value: Any) -> None:
    """What a few fields demand beyond their type."""
    if row.cls == "VM" and name == "is_a_template" and value != row["is_a_template"]:
        if value:
            with call.doing(row, "make_into_template"):
                return
        if row["is_a_snapshot"]:
            raise Failure("VM_IS_SNAPSHOT", row.ref, "set_is_a_template")
    kind = CLASSES[row.cls].fields[name].type
    if row.cls == "VBD" and name == "userdevice" and row["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "the VBD is attached")
    check(kind, value, name)


@functools.cache
def _messages() -> dict[str, Message]:
    return {message.name: message for schema in CLASSES.values() for message in _of_class(schema)}


def generic_message(name: str) -> Message | None:
    """The message of that name, if it is one that follows from the schema."""
    return _messages().get(name)


def generic_names() -> list[str]:
    """The names of all that follow from the schema."""
    return list(_messages())
