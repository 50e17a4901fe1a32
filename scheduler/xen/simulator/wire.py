"""XML-RPC and JSON-RPC 2.0 as pools speak them: bytes to a method and its arguments, a value or a failure to bytes.

XML is written without white space between elements, which several clients would take for text. Ints travel as strings
over XML-RPC and as numbers over JSON; a string is a bare `<value>`. A failure is a struct with Status and ErrorDescription
in the one, an error object with the code as its message and the parameters as its data in the other.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape

import orjson
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.schema import SmallInt, Stamp

_DEPTH_MAX: Final = 40
_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


class BadRequest(ValueError):
    """What came is no call: the client's fault."""


@dataclass(frozen=True, slots=True)
class MethodCall:
    """A call as it came."""

    method: str
    arguments: list[Any]
    number: Any = None
    """The `id` of a JSON-RPC call, to be given back."""


def read_xml(body: bytes) -> MethodCall:
    """A call in XML-RPC. Raises BadRequest."""
    try:
        root = fromstring(body)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise BadRequest(f"not XML: {error}") from None
    name = root.findtext("methodName")
    if root.tag != "methodCall" or not name:
        raise BadRequest("not a methodCall")
    values = [value for param in root.findall("./params/param") if (value := param.find("value")) is not None]
    return MethodCall(name.strip(), [_read_value(value, 0) for value in values])


def _read_value(value: Element, depth: int) -> Any:
    if depth > _DEPTH_MAX:
        raise BadRequest("nested too deeply")
    inner = next(iter(value), None)
    if inner is None:
        return value.text or ""
    text = inner.text or ""
    try:
        match inner.tag:
            case "string":
                return text
            case "int" | "i4" | "i8":
                return int(text)
            case "double":
                return float(text)
            case "boolean":
                return {"0": False, "1": True}[text.strip()]
            case "dateTime.iso8601":
                return Stamp(text.strip())
            case "base64":
                return base64.b64decode(text).decode()
            case "nil":
                return ""
            case "array":
                return [_read_value(item, depth + 1) for item in inner.findall("./data/value")]
            case "struct":
                return {
                    member.findtext("name") or "": _read_value(item, depth + 1)
                    for member in inner.findall("member")
                    if (item := member.find("value")) is not None
                }
    except (ValueError, KeyError):
        raise BadRequest(f"{text!r} is not a {inner.tag}") from None
    raise BadRequest(f"no type is called {inner.tag}")


def write_xml_result(value: Any) -> bytes:
    """The answer of a call that went well."""
    return _respond({"Status": "Success", "Value": value})


def write_xml_failure(failure: Failure) -> bytes:
    """The answer of a call that failed."""
    return _respond({"Status": "Failure", "ErrorDescription": failure.description})


def _respond(value: Any) -> bytes:
    parts = ['<?xml version="1.0"?><methodResponse><params><param>']
    _write_value(parts, value)
    parts.append("</param></params></methodResponse>")
    return "".join(parts).encode()


def result_text(value: Any) -> str:
    """A value as `task.result` holds it: the XML of an XML-RPC value."""
    parts: list[str] = []
    _write_value(parts, value)
    return "".join(parts)


def _write_value(parts: list[str], value: Any) -> None:
    match value:
        case bool():
            parts.append(f"<value><boolean>{int(value)}</boolean></value>")
        case Stamp():
            parts.append(f"<value><dateTime.iso8601>{value}</dateTime.iso8601></value>")
        case str():
            parts.append(f"<value>{_escaped(value)}</value>")
        case SmallInt():
            parts.append(f"<value><i4>{value}</i4></value>")
        case int():
            parts.append(f"<value>{value}</value>")
        case float():
            parts.append(f"<value><double>{value!r}</double></value>")
        case Mapping():
            parts.append("<value><struct>")
            for name, item in value.items():
                parts.append(f"<member><name>{_escaped(str(name))}</name>")
                _write_value(parts, item)
                parts.append("</member>")
            parts.append("</struct></value>")
        case list() | tuple():
            parts.append("<value><array><data>")
            for item in value:
                _write_value(parts, item)
            parts.append("</data></array></value>")
        case _:
            raise TypeError(f"no XML-RPC for {value!r}")


def _escaped(text: str) -> str:
    if _NOT_XML.search(text):
        text = _NOT_XML.sub("\ufffd", text)
    return escape(text)


def read_json(body: bytes) -> MethodCall:
    """A call in JSON-RPC 2.0. Raises BadRequest."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"not JSON: {error}") from None
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise BadRequest("not a call: one object with a method is served, batches are not")
    arguments = request.get("params", [])
    if not isinstance(arguments, list):
        raise BadRequest("params is a list: XenAPI has no named parameters")
    return MethodCall(request["method"], arguments, request.get("id"))


def write_json_result(value: Any, number: Any) -> bytes:
    """The answer of a call that went well."""
    return orjson.dumps({"jsonrpc": "2.0", "result": _jsonable(value), "id": number})


def write_json_failure(failure: Failure, number: Any) -> bytes:
    """The answer of a call that failed."""
    error = {"code": 1, "message": failure.code, "data": list(failure.params)}
    return orjson.dumps({"jsonrpc": "2.0", "error": error, "id": number})


def _jsonable(value: Any) -> Any:
    match value:
        case bool() | float():
            return value
        case str():
            return str(value).encode("utf-8", "replace").decode()
        case int():
            return int(value)
        case Mapping():
            return {str(name): _jsonable(item) for name, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case _:
            raise TypeError(f"no JSON for {value!r}")
