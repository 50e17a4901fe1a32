"""XML-RPC and JSON-RPC as bytes: what clients that others wrote read and write."""

from __future__ import annotations

import json
import xmlrpc.client
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.schema import SmallInt, Stamp
from scheduler.xen.simulator.wire import (
    BadRequest,
    read_json,
    read_xml,
    result_text,
    write_json_failure,
    write_json_result,
    write_xml_failure,
    write_xml_result,
)

texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r"))
values: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
)
printable = st.text(st.characters(min_codepoint=32, blacklist_categories=("Cs", "Cc")))


def as_strings(value: Any) -> Any:
    """A value as a client of XML-RPC sees it: ints are strings, what XML cannot hold is replaced."""
    match value:
        case bool() | float():
            return value
        case int():
            return str(value)
        case str():
            controls = [chr(code) for code in range(32) if code not in (9, 10)] + ["\ufffe", "\uffff"]
            for control in controls:
                value = value.replace(control, "\ufffd")
            return value
        case list():
            return [as_strings(item) for item in value]
    return {as_strings(key): as_strings(item) for key, item in value.items()}


@given(values)
def test_the_standard_library_reads_our_xml(value: Any) -> None:
    """Python's own XML-RPC client reads back what was written, ints as strings."""
    (answer,), _method = xmlrpc.client.loads(write_xml_result(value))
    assert answer == {"Status": "Success", "Value": as_strings(value)}


@given(
    st.recursive(
        st.booleans() | st.integers(0, 9), lambda inner: st.lists(inner) | st.dictionaries(st.just("k"), inner)
    )
)
def test_there_is_no_white_space_between_elements(value: Any) -> None:
    """Elements follow each other directly: some clients would take a space for a value."""
    declaration = '<?xml version="1.0"?>'
    body = write_xml_result(value).decode()
    assert body.startswith(declaration)
    assert not any(character.isspace() for character in body.removeprefix(declaration))


@given(st.lists(st.booleans() | st.integers(-(2**31), 2**31 - 1) | printable | st.lists(printable), max_size=5))
def test_we_read_the_standard_library(arguments: list[Any]) -> None:
    """A call as Python's own XML-RPC client writes it."""
    call = read_xml(xmlrpc.client.dumps(tuple(arguments), "VM.start").encode())
    assert (call.method, call.arguments) == ("VM.start", arguments)


def test_times_and_small_numbers_have_types_of_their_own() -> None:
    """Datetimes are datetimes, counts are numbers, a result in a task is the value alone."""
    assert result_text(Stamp("20260101T00:00:00Z")).startswith("<value><dateTime.iso8601>20260101T")
    assert result_text(SmallInt(3)) == "<value><i4>3</i4></value>"
    assert result_text(3) == "<value>3</value>"
    assert result_text("a<b&c") == "<value>a&lt;b&amp;c</value>"


def test_failures_keep_code_and_parameters() -> None:
    """In XML a struct, in JSON an error object."""
    failure = Failure("HANDLE_INVALID", "VM", "OpaqueRef:x")
    (answer,), _ = xmlrpc.client.loads(write_xml_failure(failure))
    assert answer == {"Status": "Failure", "ErrorDescription": ["HANDLE_INVALID", "VM", "OpaqueRef:x"]}
    error = json.loads(write_json_failure(failure, 7))
    assert error["id"] == 7
    assert error["error"] == {"code": 1, "message": "HANDLE_INVALID", "data": ["VM", "OpaqueRef:x"]}


@given(values)
def test_json_keeps_numbers(value: Any) -> None:
    """JSON carries ints as numbers."""
    assert json.loads(write_json_result(value, 1)) == {"jsonrpc": "2.0", "result": value, "id": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"<a/>",
        b"<methodCall/>",
        b"<methodCall><methodName>x</methodName><params><param><value><int>a</int></value></param></params></methodCall>",
        b"<methodCall><methodName>x</methodName><params><param><value><what/></value></param></params></methodCall>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><methodCall><methodName>&a;</methodName></methodCall>',
        b"<methodCall><methodName>x</methodName><params><param>"
        + b"<value><array><data>" * 100
        + b"</data></array></value>" * 100
        + b"</param></params></methodCall>",
        b"\xff\xfe",
    ],
)
def test_what_is_no_xml_call_is_refused(body: bytes) -> None:
    """Nonsense, wrong types, entities and bottomless nesting: the client's fault, and said so."""
    with pytest.raises(BadRequest):
        read_xml(body)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"method": 1}', b'{"method": "x", "params": {}}', b"nonsense"])
def test_what_is_no_json_call_is_refused(body: bytes) -> None:
    """Batches and named parameters are not XenAPI's."""
    with pytest.raises(BadRequest):
        read_json(body)
