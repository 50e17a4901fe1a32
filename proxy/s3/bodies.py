"""Bodies of writes that the dialect makes itself."""

from __future__ import annotations


class BytesBody:
    """Bytes at hand as the body of a write (a `BodySource`)."""

    __slots__ = ("_data", "_length")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._length = len(data)

    @property
    def length(self) -> int | None:
        """Bytes in all."""
        return self._length

    async def read(self) -> bytes:
        """All of it; then b""."""
        data, self._data = self._data, b""
        return data


class EmptyBody:
    """No bytes (a `BodySource`)."""

    __slots__ = ()

    @property
    def length(self) -> int | None:
        """None at all: 0."""
        return 0

    async def read(self) -> bytes:
        """The end."""
        return b""


EMPTY_BODY = EmptyBody()
