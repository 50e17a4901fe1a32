"""Documents in and out."""

from __future__ import annotations

from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3.bodies import BytesBody
from proxy.s3.xml import (
    DocumentTooLong,
    MalformedDocument,
    child_text,
    children,
    document,
    element,
    parse,
    parse_async,
    read_body,
)

BOMB = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<Delete><Object><Key>&b;</Key></Object></Delete>"""
EXTERNAL = b"""<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete>&x;</Delete>"""


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        EXTERNAL,
        b"<!DOCTYPE Delete><Delete/>",
        b"",
        b"no xml",
        b"<Delete>",
        b"<Delete></Other>",
        b"<Other/>",
        b'<?xml version="1.0" encoding="nonsense"?><Delete/>',
        b"<Delete>\xff\xfe</Delete>",
        b"<Delete>\x00</Delete>",
        b"<a>" * 100_000,
    ],
)
def test_bombs_and_nonsense_are_refused(text: bytes) -> None:
    """No document type, no entities, no broken markup, no other root: MalformedDocument and nothing else."""
    with pytest.raises(MalformedDocument):
        parse(text, "Delete")


def test_deep_nesting_costs_no_stack() -> None:
    """A document that is one deep well is read and thrown away without harm."""
    depth = 50_000
    parse(b"<Delete>" + b"<a>" * depth + b"</a>" * depth + b"</Delete>", "Delete")


@pytest.mark.parametrize("namespace", [b"", b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', b' xmlns="urn:other"'])
def test_name_spaces_do_not_matter(namespace: bytes) -> None:
    """Clients leave S3's name space out, or write another."""
    root = parse(b"<Delete" + namespace + b"><Quiet>true</Quiet><Object><Key>a</Key></Object></Delete>", "Delete")
    assert child_text(root, "Quiet") == "true"
    assert [child_text(node, "Key") for node in children(root, "Object")] == ["a"]
    assert child_text(root, "Missing") is None


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")))
def test_text_comes_back_as_it_was(text: str) -> None:
    """Escaping loses nothing and lets nothing out of its element."""
    root = fromstring(document("Root", element("Key", text)))
    assert len(root) == 1
    assert (root[0].text or "") == text


def test_control_characters_are_written_as_references() -> None:
    """What XML 1.0 cannot hold is written as AWS writes it."""
    assert element("Key", "\x01\r") == "<Key>&#x1;&#xD;</Key>"


async def test_a_long_document_is_parsed_in_a_thread() -> None:
    """The result is the same as for a short one."""
    rows = b"".join(b"<Object><Key>%05d</Key></Object>" % i for i in range(5000))
    root = await parse_async(b"<Delete>" + rows + b"</Delete>", "Delete")
    assert len(list(children(root, "Object"))) == 5000
    with pytest.raises(MalformedDocument):
        await parse_async(b"<Delete>" + rows, "Delete")


async def test_bodies_have_a_limit() -> None:
    """A body is read up to its limit and not further."""
    assert await read_body(BytesBody(b"12345"), 5) == b"12345"
    with pytest.raises(DocumentTooLong):
        await read_body(BytesBody(b"123456"), 5)
