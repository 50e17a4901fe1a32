"""Names in URLs: /v1/ACCOUNT[/CONTAINER[/OBJECT]].

The path is percent-decoded as a whole and then split, as Swift does: %2F separates like a slash does, and all slashes
after the container's belong to the object's name. Names are UTF-8 without NUL; what is too long is said to be too long
before anything is looked up.

Invariant: what `parse_path` returns can be stored, and `quote_name` of it, decoded again, gives it back.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from proxy.swift.errors import SwiftError
from proxy.swift.settings import SwiftSettings

_PREFIX = b"/v1/"
_ACCOUNT_BYTES_MAX = 256


class Target(NamedTuple):
    """What a request is about."""

    account: str
    container: bytes
    """b"": the account itself."""
    name: bytes
    """b"": the container itself."""


def parse_path(path: bytes, settings: SwiftSettings) -> Target:
    """The target of a path that begins with /v1/. Raises SwiftError: 404, 412 for bytes that are no UTF-8, 400."""
    if b"%" in path:
        path = unquote_to_bytes(path)
    if not path.isascii() or b"\x00" in path:
        check_utf8(path)
    _, _, rest = path.partition(_PREFIX)
    account, _, rest = rest.partition(b"/")
    container, _, name = rest.partition(b"/")
    if not account or (name and not container):
        raise SwiftError(404)
    if (
        len(name) > settings.object_name_bytes_max
        or len(container) > settings.container_name_bytes_max
        or len(account) > _ACCOUNT_BYTES_MAX
    ):
        check_lengths(container, name, settings)
        raise SwiftError(404)
    return Target(account.decode(), container, name)


def check_lengths(container: bytes, name: bytes, settings: SwiftSettings) -> None:
    """Raises SwiftError 400 for names that are too long."""
    if len(container) > settings.container_name_bytes_max:
        limit = settings.container_name_bytes_max
        raise SwiftError(400, f"Container name length of {len(container)} longer than {limit}")
    if len(name) > settings.object_name_bytes_max:
        raise SwiftError(400, f"Object name length of {len(name)} longer than {settings.object_name_bytes_max}")


def check_utf8(name: bytes) -> None:
    """Raises SwiftError 412 for bytes that are no UTF-8, or hold NUL."""
    try:
        name.decode()
    except UnicodeDecodeError:
        raise SwiftError(412, "Invalid UTF8 or contains NULL") from None
    if b"\x00" in name:
        raise SwiftError(412, "Invalid UTF8 or contains NULL")


def parse_object_path(value: bytes, settings: SwiftSettings, header: str) -> tuple[bytes, bytes]:
    """CONTAINER/OBJECT of a Destination or X-Copy-From header, percent-encoded, with or without a slash before it."""
    path = unquote_to_bytes(value)
    check_utf8(path)
    container, _, name = path.removeprefix(b"/").partition(b"/")
    if not container or not name:
        raise SwiftError(412, f"{header} header must be of the form <container name>/<object name>")
    check_lengths(container, name, settings)
    return container, name


def parse_account(value: bytes) -> str:
    """An account that a header names. Raises SwiftError 412."""
    account = unquote_to_bytes(value)
    check_utf8(account)
    if not account or b"/" in account or len(account) > _ACCOUNT_BYTES_MAX:
        raise SwiftError(412, "Account name cannot contain slashes")
    return account.decode()


def quote_name(name: bytes) -> str:
    """A name as part of a URL; slashes stay."""
    return quote_from_bytes(name)
