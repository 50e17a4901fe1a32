"""Bulk delete."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.proxy.swift.conftest import Cloud


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_many_at_once(cloud: Cloud, method: str) -> None:
    """Objects and the containers that they leave empty, in the order of the list."""
    for name in ("a", "b%20c", "%C3%BC"):
        await cloud.put(f"c/{name}", b"")
    body = b"c/a\n/c/b%20c\nc/%C3%BC\n\nc/missing\nnone\nc\n"
    answer = await cloud.ask(method, "/v1/AUTH_science?bulk-delete", body, accept="application/json")
    assert answer.status == 200
    assert answer.json() == {
        "Number Deleted": 4,
        "Number Not Found": 2,
        "Response Body": "",
        "Response Status": "200 OK",
        "Errors": [],
    }
    assert await cloud.names("/v1/AUTH_science") == []


async def test_what_cannot_be_deleted_is_told(cloud: Cloud) -> None:
    """As text, JSON or XML; the rest is deleted all the same."""
    body = b"c\nc/%FF\nc/" + b"x" * 1025 + b"\n/\n"
    for accept in ("text/plain", "application/json", "application/xml"):
        await cloud.put("c/keep")
        await cloud.put("c/o")
        answer = await cloud.ask("POST", "/v1/AUTH_science?bulk-delete", body + b"c/o", accept=accept)
        assert answer.status == 200
        text = answer.body.decode()
        assert "400 Bad Request" in text
        assert "409 Conflict" in text
        assert "412 Precondition Failed" in text
        if accept == "application/json":
            assert len(answer.json()["Errors"]) == 4
        elif accept == "application/xml":
            root = ElementTree.fromstring(answer.body)
            assert (root.findtext("number_deleted"), len(root.findall("errors/object"))) == ("1", 4)
        assert await cloud.names("c") == ["keep"]


async def test_limits_of_bulk(cloud: Cloud) -> None:
    """Too many names, none at all, too many failures, and nobody else's."""
    path = "/v1/AUTH_science?bulk-delete"
    assert (await cloud.ask("POST", path, b"c/x\n" * 51)).status == 413
    empty = (await cloud.ask("POST", path, b"", accept="application/json")).json()
    assert empty["Response Status"] == "400 Bad Request"
    failing = (await cloud.ask("POST", path, b"c/%FF\n" * 20, accept="application/json")).json()
    assert (failing["Response Body"], len(failing["Errors"])) == ("Max delete failures exceeded", 10)
    assert (await cloud.ask("POST", path, b"c", by="bob")).status == 403
