"""multipart/form-data, as browsers post it: some short fields, then one file that may be large.

Problem: the fields must be known before the first byte of the file is stored (they say where, and whether the sender may),
and the file must not be held in memory; its end is a boundary that may lie across any two pieces of the body.

Idea: `FormReader` reads the parts before the file into a dictionary, within a limit, and then is itself the body of the
file: it gives bytes as they come, holding back only as many as could be the beginning of the boundary.

Source: RFC 7578 and RFC 2046 section 5.1; "POST Object" of the Amazon S3 API Reference (fields after the file are ignored).

Invariants:
- No more is held than FIELDS_BYTES_MAX for the fields and one piece of the file.
- The file ends only at the boundary: a body that stops before it raises MalformedPOSTRequest, and nothing is stored.
"""

from __future__ import annotations

import re
from typing import Protocol

from proxy.s3.errors import S3Error

FIELDS_BYTES_MAX = 20 * 1024
"""Of all fields before the file, their part headers included. AWS's own number."""
FIELD_COUNT_MAX = 100
_BOUNDARY = re.compile(rb'boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(r'(name|filename)="((?:[^"\\\r\n]|\\.)*)"', re.IGNORECASE)
_HEADER_END = b"\r\n\r\n"


class _Body(Protocol):
    async def read(self) -> bytes: ...


def boundary_of(content_type: bytes) -> bytes:
    """The boundary in a Content-Type. Raises MalformedPOSTRequest where it is no form's."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith(b"multipart/form-data") or found is None:
        raise S3Error("MalformedPOSTRequest", "The request is not multipart/form-data with a boundary.", close=True)
    return found[1] or found[2]


class FormReader:
    """A form being read: first `read_fields`, then `read` for the file (a `BodySource`)."""

    def __init__(self, body: _Body, boundary: bytes) -> None:
        self._body = body
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # so that the first boundary, which no line end precedes, looks like the others
        self._ended = False
        self.file_name = ""
        """As the browser says it; without folders."""

    @property
    def length(self) -> int | None:
        """Of the file: unknown until its end."""
        return None

    async def read_fields(self) -> dict[str, str]:
        """The fields before the file, names in lower case. Raises MalformedPOSTRequest and its like."""
        fields: dict[str, str] = {}
        consumed_bytes = 0
        await self._until(self._delimiter)
        while True:
            await self._fill(2)
            if self._buffer[:2] == b"--":
                raise S3Error("IncorrectNumberOfFilesInPostRequest", close=True)
            head = await self._until(_HEADER_END)
            name, file_name = _disposition(head)
            if name == "file":
                self.file_name = file_name
                return fields
            value = await self._until(self._delimiter)
            consumed_bytes += len(head) + len(value)
            if consumed_bytes > FIELDS_BYTES_MAX or len(fields) >= FIELD_COUNT_MAX:
                raise S3Error("MaxPostPreDataLengthExceededError", close=True)
            try:
                fields[name] = value.decode()
            except UnicodeDecodeError:
                raise _malformed(f"The field {name} is not UTF-8.") from None

    async def read(self) -> bytes:
        """The next piece of the file; b"" at its end. Raises MalformedPOSTRequest if the body ends before it."""
        hold_bytes = len(self._delimiter) - 1
        while not self._ended:
            at = self._buffer.find(self._delimiter)
            if at >= 0:
                piece, self._buffer, self._ended = self._buffer[:at], b"", True
                await self._drain()
                return piece
            if len(self._buffer) > hold_bytes:
                piece, self._buffer = self._buffer[:-hold_bytes], self._buffer[-hold_bytes:]
                return piece
            await self._more()
        return b""

    async def _until(self, mark: bytes) -> bytes:
        """What comes before `mark`, which is consumed as well."""
        searched = 0
        while True:
            at = self._buffer.find(mark, searched)
            if at >= 0:
                found, self._buffer = self._buffer[:at], self._buffer[at + len(mark) :]
                return found
            if len(self._buffer) > FIELDS_BYTES_MAX:
                raise S3Error("MaxPostPreDataLengthExceededError", close=True)
            searched = max(0, len(self._buffer) - len(mark) + 1)
            await self._more()

    async def _fill(self, size_bytes: int) -> None:
        while len(self._buffer) < size_bytes:
            await self._more()

    async def _more(self) -> None:
        piece = await self._body.read()
        if not piece:
            raise _malformed("The form ends before its closing boundary.")
        self._buffer += piece

    async def _drain(self) -> None:
        """Read what follows the file, so that the connection can be used again."""
        while await self._body.read():
            pass


def _disposition(head: bytes) -> tuple[str, str]:
    """Field name in lower case and file name of a part, from its headers."""
    for line in head.split(b"\r\n"):
        header, _, value = line.partition(b":")
        if header.strip().lower() == b"content-disposition":
            parameters = {
                match[1].lower(): re.sub(r"\\(.)", r"\1", match[2])
                for match in _PARAMETER.finditer(value.decode("utf-8", "replace"))
            }
            name = parameters.get("name", "").lower()
            if name:
                return name, re.split(r"[/\\]", parameters.get("filename", ""))[-1]
    raise _malformed("A part has no name.")


def _malformed(message: str) -> S3Error:
    return S3Error("MalformedPOSTRequest", message, close=True)
