"""Classes, fields and types as the datamodel words them, and the check that a value is of a type.

Types are the datamodel's own strings (`VM ref`, `(string -> string) map`), parsed once. Values are plain Python: `str`,
`int`, `float`, `bool`, tuples for sets, dicts for maps, `Stamp` for datetimes; what is stored is never changed in place, so
defaults can be shared and a record handed out needs no copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.tables import compute, hosts, service, storage
from scheduler.xen.simulator.tables.words import ENUMS, RELATIONS

NULL: Final = "OpaqueRef:NULL"


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set: how long lists of names are written down here."""
    return frozenset(text.split())


class Stamp(str):
    """A datetime in the one form that pools write: `20260131T23:59:59Z`."""

    __slots__ = ()


class SmallInt(int):
    """An int that XML-RPC carries as a number; all others travel as strings."""

    __slots__ = ()


EPOCH: Final = Stamp("19700101T00:00:00Z")


@dataclass(frozen=True, slots=True)
class Type:
    """A type of the datamodel. `kind` is one of string, int, float, bool, datetime, ref, enum, set, map, record, void."""

    kind: str
    name: str = ""
    """The class of a ref or record, the name of an enum."""
    key: Type | None = None
    of: Type | None = None

    @property
    def zero(self) -> Any:
        """What a field of this type holds when nothing else is said."""
        if self.kind == "enum":
            return ENUMS[self.name][0]
        return _ZEROS[self.kind]


_ZEROS: Final[Mapping[str, Any]] = {
    "string": "",
    "int": 0,
    "float": 0.0,
    "bool": False,
    "datetime": EPOCH,
    "ref": NULL,
    "set": (),
    "map": {},
    "record": {},
    "any": "",
    "void": "",
}
_MAP = re.compile(r"\((.+?) -> (.+)\) map")


@cache
def parse_type(words: str) -> Type:
    """The type that the datamodel words so."""
    if match := _MAP.fullmatch(words):
        return Type("map", key=parse_type(match[1]), of=parse_type(match[2]))
    if words.endswith(" set"):
        return Type("set", of=parse_type(words.removesuffix(" set")))
    if words.startswith("enum "):
        return Type("enum", words.removeprefix("enum "))
    for kind in ("ref", "record"):
        if words.endswith(f" {kind}"):
            return Type(kind, words.removesuffix(f" {kind}"))
    return Type(words if words in _ZEROS else "any")


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its type, its default, and who may set it."""

    name: str
    words: str
    type: Type
    access: str
    """`rw`: a client, at any time. `new`: a client, at creation. `ro`: the pool."""
    default: Any


@dataclass(frozen=True, slots=True)
class ClassSchema:
    """A class: its fields by name."""

    name: str
    fields: Mapping[str, Field]


def _read_field(line: str) -> Field:
    declaration, _, default_text = line.partition(" = ")
    name, access, words = declaration.split(" ", 2)
    kind = parse_type(words)
    default = check(kind, json.loads(default_text), name) if default_text else kind.zero
    return Field(name, words, kind, access, default)


def check(kind: Type, value: Any, field: str) -> Any:
    """The value as the model keeps it.

    Ints and floats may come as strings, as XML-RPC carries them. Raises Failure FIELD_TYPE_ERROR naming the field.
    """
    match kind.kind:
        case "string" | "ref" if isinstance(value, str):
            return str(value)
        case "datetime" if isinstance(value, str):
            return Stamp(value)
        case "bool" if isinstance(value, bool):
            return value
        case "int" if isinstance(value, int | str) and not isinstance(value, bool):
            return _number(int, value, field)
        case "float" if isinstance(value, int | float | str) and not isinstance(value, bool):
            return _number(float, value, field)
        case "enum" if isinstance(value, str):
            if value not in ENUMS[kind.name]:
                raise Failure("INVALID_VALUE", field, value)
            return value
        case "set" if isinstance(value, list | tuple) and kind.of is not None:
            return tuple(check(kind.of, item, field) for item in value)
        case "map" if isinstance(value, Mapping) and kind.key is not None and kind.of is not None:
            return {check(kind.key, key, field): check(kind.of, item, field) for key, item in value.items()}
        case "record" if isinstance(value, Mapping):
            return dict(value)
        case "any":
            return value
        case _:
            raise Failure("FIELD_TYPE_ERROR", field)


def _number(kind: type[int] | type[float], value: Any, field: str) -> Any:
    try:
        number = kind(value)
    except ValueError:
        raise Failure("FIELD_TYPE_ERROR", field) from None
    if kind is int and not -(2**63) <= number < 2**63:
        raise Failure("FIELD_TYPE_ERROR", field)
    return number


def _load() -> dict[str, ClassSchema]:
    classes = {}
    for module in (hosts, compute, storage, service):
        for name, text in module.FIELDS.items():
            fields = [_read_field(line) for line in text.strip().splitlines()]
            classes[name] = ClassSchema(name, {field.name: field for field in fields})
    return classes


CLASSES: Final[Mapping[str, ClassSchema]] = _load()
CLASS_BY_LOWER: Final[Mapping[str, str]] = {name.lower(): name for name in CLASSES}
WITHOUT_EVENTS: Final = frozenset({"session"})


def _relations() -> dict[str, dict[str, tuple[str, str]]]:
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for child, parent in RELATIONS:
        child_class, field = child.split(".")
        parent_class, inverse = parent.split(".")
        if field not in CLASSES[child_class].fields:
            continue
        found.setdefault(child_class, {})[field] = (parent_class, inverse)
    return found


INVERSES: Final = _relations()
"""By class and field that refers: the class referred to and its field that lists who refers to it."""
