"""S3's XML: documents written as text, documents read with every trick refused.

Problem: a listing of 1,000 keys is the longest answer that the dialect makes, and building a tree for it costs ten times
the text; while the documents that clients send may be bombs (entities that expand to gigabytes, external entities).

Idea: answers are f-strings of escaped text. Requests are parsed by defusedxml with document types forbidden, after a
limit on their length, and long ones in a thread. Elements are found by their local name: some clients leave the name
space out, some use the wrong one.

Rejected: an ElementTree for answers (slow), lxml (a second C parser to trust; defusedxml no longer covers it).

Invariants:
- `escape` lets no character through that ends an element or an attribute, and writes control characters as references,
  as AWS does (XML 1.0 has no place for most of them; clients that meet them ask for encoding-type=url).
- A parse either gives the document that was asked for or raises MalformedXML; it never costs more than its limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol
from xml.etree.ElementTree import Element, ParseError

import trio
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from proxy.s3.settings import XML_BODY_BYTES_MAX, XML_THREAD_BYTES_MIN

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
CONTENT_TYPE = (b"content-type", b"application/xml")

_ESCAPES: dict[int, str] = {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord('"'): "&quot;",
    ord("\r"): "&#xD;",
    0xFFFE: "&#xFFFE;",
    0xFFFF: "&#xFFFF;",
} | {code: f"&#x{code:X};" for code in range(32) if code not in (9, 10, 13)}


class MalformedDocument(Exception):
    """The request's document is not what it must be. The message says why."""


class DocumentTooLong(Exception):
    """The request's document is longer than its limit."""


class _Source(Protocol):
    async def read(self) -> bytes: ...


def escape(text: str) -> str:
    """Text as the content of an element."""
    return text.translate(_ESCAPES)


def document(name: str, content: str) -> bytes:
    """A whole answer: declaration, root element in S3's name space, content (escaped already)."""
    return f"{DECLARATION}<{name} {NAMESPACE}>{content}</{name}>".encode()


def long_document(name: str, before: str, rows: list[bytes], behind: str) -> bytes:
    """The same, of content in many pieces: they are copied once."""
    beginning = f"{DECLARATION}<{name} {NAMESPACE}>{before}".encode()
    return b"".join([beginning, *rows, f"{behind}</{name}>".encode()])


def element(name: str, text: str) -> str:
    """One element with text."""
    return f"<{name}>{text.translate(_ESCAPES)}</{name}>"


async def read_body(body: _Source, bytes_max: int = XML_BODY_BYTES_MAX) -> bytes:
    """A whole request body. Raises DocumentTooLong beyond `bytes_max`, and whatever the body raises."""
    pieces: list[bytes] = []
    size_bytes = 0
    while piece := await body.read():
        size_bytes += len(piece)
        if size_bytes > bytes_max:
            raise DocumentTooLong(f"more than {bytes_max} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def parse(text: bytes, root: str) -> Element:
    """The document's root element, which must be called `root` (in any name space).

    Raises MalformedDocument for what is no XML, has a document type, or another root.
    """
    try:
        parsed: Element = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
        raise MalformedDocument(str(error)) from error
    if local_name(parsed) != root:
        raise MalformedDocument(f"the root element is {local_name(parsed)!r}, not {root!r}")
    return parsed


async def parse_async(text: bytes, root: str) -> Element:
    """`parse`, in a thread where the document is long."""
    if len(text) < XML_THREAD_BYTES_MIN:
        return parse(text, root)
    return await trio.to_thread.run_sync(parse, text, root)


def local_name(node: Element) -> str:
    """An element's name without its name space."""
    tag = node.tag
    return tag[tag.index("}") + 1 :] if tag.startswith("{") else tag


def children(node: Element, name: str) -> Iterator[Element]:
    """The direct children called `name`."""
    for child in node:
        if isinstance(child.tag, str) and local_name(child) == name:
            yield child


def child_text(node: Element, name: str) -> str | None:
    """The text of the first direct child called `name`; None where there is none."""
    for child in children(node, name):
        return child.text or ""
    return None
