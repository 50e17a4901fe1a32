"""The names of things: what a key is made of, and which names are nobody's.

Accounts, containers and objects are placed by their keys, raw bytes with a slash before each part: no account's and no
container's name holds a slash, so a key comes apart into what it was made of. Containers whose names begin with NUL are
internal: no listing or total shows them, and no client can name them.
"""

from __future__ import annotations

from typing import NamedTuple

from storage_node.operations import Space

CONTAINER, ACCOUNT = int(Space.CONTAINER), int(Space.ACCOUNT)
"""The spaces of catalogs, as the wire takes them: plain numbers."""


def account_key(account: str) -> bytes:
    """The key that places an account."""
    return b"/" + account.encode()


def container_key(account: str, container: bytes) -> bytes:
    """The key that places a container."""
    return b"/" + account.encode() + b"/" + container


def split_object_key(key: bytes) -> tuple[str, bytes, bytes]:
    """The account, container and name of an object's key."""
    _, account, container, name = key.split(b"/", 3)
    return account.decode(), container, name


def internal(container: bytes) -> bool:
    """Whether the name is one of ours, that no client may use."""
    return container[:1] == b"\x00"


class ObjectName(NamedTuple):
    """An object's full name."""

    account: str
    container: bytes
    name: bytes

    @property
    def key(self) -> bytes:
        """What places it."""
        return container_key(self.account, self.container) + b"/" + self.name
