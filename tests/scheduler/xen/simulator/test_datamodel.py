"""The simulator against the datamodel: nothing is served that a real pool has not, and nothing under another signature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.xen.simulator.dispatch import all_methods
from scheduler.xen.simulator.generic import generic_message
from scheduler.xen.simulator.messages import MESSAGES, REQUIRED, Message
from scheduler.xen.simulator.schema import CLASSES
from scheduler.xen.simulator.tables.words import ENUMS, RELATIONS

DATAMODEL = Path(__file__).resolve().parents[5] / "shared" / "xenapi" / "xenapi-compact.json"
ACCESS = {"RW": "rw", "RO/runtime": "ro", "RO/constructor": "new"}
NOT_IN_IT = "get_all_records_where"
"""Pools serve it for every class, and the datamodel hides it for all but one."""


@pytest.fixture(scope="module")
def datamodel() -> dict[str, Any]:
    """The datamodel, as it lies beside a checkout."""
    if not DATAMODEL.exists():
        pytest.skip(f"no datamodel at {DATAMODEL}")
    loaded: dict[str, Any] = json.loads(DATAMODEL.read_text())
    return loaded


def served() -> list[Message]:
    """All messages but logins, the generic ones included."""
    names = [
        name for name in all_methods() if not name.startswith(("Async.", "system.", "session.log", "session.slave"))
    ]
    names = [name for name in names if name != "session.local_logout"]
    found = [MESSAGES.get(name) or generic_message(name) for name in names]
    assert all(found)
    return [message for message in found if message is not None]


def test_fields_are_those_of_the_datamodel(datamodel: dict[str, Any]) -> None:
    """Each class has the datamodel's fields, all of them, with their types and who sets them."""
    for name, schema in CLASSES.items():
        fields = datamodel["classes"][name]["fields"]
        ours = {field.name: (field.words, field.access) for field in schema.fields.values()}
        assert ours == {field: (facts["type"], ACCESS[facts["q"]]) for field, facts in fields.items()}, name


def test_defaults_are_those_of_the_datamodel(datamodel: dict[str, Any]) -> None:
    """A field without a value reads as the datamodel says."""
    for name, schema in CLASSES.items():
        for field in schema.fields.values():
            facts = datamodel["classes"][name]["fields"][field.name]
            if "default" in facts and facts["type"] != "datetime":
                expected = facts["default"]
                ours = list(field.default) if isinstance(field.default, tuple) else field.default
                assert ours == expected, f"{name}.{field.name}"


def test_words_of_enumerations_are_those_of_the_datamodel(datamodel: dict[str, Any]) -> None:
    """Enumerations have the same words in the same order."""
    known = {name: tuple(words) for facts in datamodel["classes"].values() for name, words in facts["enums"].items()}
    assert {name: known[name] for name in ENUMS} == ENUMS


def test_relations_are_those_of_the_datamodel(datamodel: dict[str, Any]) -> None:
    """Every relation between two served classes is kept, and no other."""
    theirs = {(a, b) for a, b in datamodel["relations"] if a.split(".")[0] in CLASSES and b.split(".")[0] in CLASSES}
    assert set(RELATIONS) == theirs


def test_messages_have_the_signatures_of_the_datamodel(datamodel: dict[str, Any]) -> None:
    """Parameters by name, type and order, the result, and whether there is an asynchronous form."""
    checked = 0
    for message in served():
        cls, _, name = message.name.partition(".")
        if name == NOT_IN_IT and cls != "message":
            continue
        facts = datamodel["classes"][cls]["messages"].get(name)
        assert facts is not None, message.name
        theirs = [(parameter[0], parameter[1]) for parameter in facts["params"]]
        assert theirs[0] == ("session_id", "session ref"), message.name
        assert [(parameter.name, parameter.words) for parameter in message.parameters] == theirs[1:], message.name
        assert message.result == facts["result"], message.name
        assert message.asynchronous == facts["async"], message.name
        assert_defaults(message, facts)
        checked += 1
    assert checked > 800


def assert_defaults(message: Message, facts: dict[str, Any]) -> None:
    """Parameters that may be left out are the same, and mean the same."""
    for ours, theirs in zip(message.parameters, facts["params"][1:], strict=True):
        expected = theirs[2] if len(theirs) > 2 else REQUIRED
        assert ours.default == expected, f"{message.name} {ours.name}"


def test_every_setter_of_a_field_is_served(datamodel: dict[str, Any]) -> None:
    """What clients may set at any time they can: setters and entries of maps and sets of each such field."""
    names = set(all_methods())
    for cls in CLASSES:
        for name, facts in datamodel["classes"][cls]["messages"].items():
            generic = facts["kind"] in ("field_setter", "field_add", "field_remove", "field_getter", "get_record")
            if generic or facts["kind"] in ("get_all", "get_all_records", "get_by_uuid", "get_by_name_label"):
                assert f"{cls}.{name}" in names


def test_error_codes_are_known(datamodel: dict[str, Any]) -> None:
    """Each code that the simulator raises is one that a pool can raise, with as many parameters."""
    behaviour = json.loads((DATAMODEL.parent / "xenapi-behaviour.json").read_text())
    unlisted = set(behaviour["codes_raised_but_absent_from_datamodel"])
    for code, count in raised():
        assert code in datamodel["errors"] or code in unlisted, code
        if code in datamodel["errors"] and count is not None and code not in VARIABLE:
            assert count == len(datamodel["errors"][code]), f"{code} has {count} parameters"


VARIABLE = {"SESSION_AUTHENTICATION_FAILED", "VM_IS_TEMPLATE"}
"""Pools give more than the datamodel lists: the user and the reason, the operation."""


def raised() -> list[tuple[str, int | None]]:
    """(code, number of parameters) of each Failure that the simulator's source makes."""
    import ast

    package = Path(__file__).resolve().parents[4] / "scheduler" / "xen" / "simulator"
    found: list[tuple[str, int | None]] = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Failure":
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    starred = any(isinstance(argument, ast.Starred) for argument in node.args)
                    found.append((first.value, None if starred else len(node.args) - 1))
    assert len(found) > 80
    return found
