"""Names in URLs."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.swift.errors import SwiftError
from proxy.swift.paths import Target, parse_account, parse_object_path, parse_path, quote_name
from proxy.swift.settings import SwiftSettings

SETTINGS = SwiftSettings()
NAMES = st.text(st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"]), min_size=1, max_size=80)


def status_of(path: bytes) -> int:
    """The status that a path is refused with."""
    with pytest.raises(SwiftError) as caught:
        parse_path(path, SETTINGS)
    return caught.value.status


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"/v1/AUTH_a", ("AUTH_a", b"", b"")),
        (b"/v1/AUTH_a/", ("AUTH_a", b"", b"")),
        (b"/v1/AUTH_a/c", ("AUTH_a", b"c", b"")),
        (b"/v1/AUTH_a/c/", ("AUTH_a", b"c", b"")),
        (b"/v1/AUTH_a/c/o", ("AUTH_a", b"c", b"o")),
        (b"/v1/AUTH_a/c//o//", ("AUTH_a", b"c", b"/o//")),
        (b"/v1/AUTH_a/c/../x", ("AUTH_a", b"c", b"../x")),
        (b"/v1/AUTH_a/c%2Fo%3F", ("AUTH_a", b"c", b"o?")),
        (b"/v1/AUTH_%C3%A9/%C3%BC/%E6%95%B0", ("AUTH_é", "ü".encode(), "数".encode())),
        (b"/v1/AUTH_a/c/100%25", ("AUTH_a", b"c", b"100%")),
        (b"/v1/AUTH_a/c/a+b%20c", ("AUTH_a", b"c", b"a+b c")),
        (b"/v1/AUTH_a/c/%0A%01", ("AUTH_a", b"c", b"\n\x01")),
    ],
)
def test_paths_and_what_they_name(path: bytes, target: tuple[str, bytes, bytes]) -> None:
    """The path is decoded as a whole and split at its first slashes."""
    assert parse_path(path, SETTINGS) == Target(*target)


def test_paths_that_name_nothing() -> None:
    """No account or no container is 404, bad bytes are 412, long names 400."""
    assert status_of(b"/v1/") == 404
    assert status_of(b"/v1//c/o") == 404
    assert status_of(b"/v1/AUTH_a//o") == 404
    assert status_of(b"/v1/AUTH_a/c/%FF") == 412
    assert status_of(b"/v1/AUTH_a/c/%00") == 412
    assert status_of(b"/v1/AUTH_a/%00internal") == 412
    assert status_of(b"/v1/AUTH_a/c/\xed\xa0\x80") == 412
    assert status_of(b"/v1/AUTH_a/" + b"c" * 257) == 400
    assert status_of(b"/v1/AUTH_a/c/" + b"o" * 1025) == 400
    assert status_of(b"/v1/AUTH_" + b"a" * 257) == 404


def test_names_of_the_greatest_length() -> None:
    """256 and 1,024 bytes, counted decoded, are not too long."""
    path = b"/v1/AUTH_a/" + b"%C3%BC" * 128 + b"/" + b"%E6%95%B0" * 341 + b"x"
    target = parse_path(path, SETTINGS)
    assert (len(target.container), len(target.name)) == (256, 1024)


@given(NAMES.filter(lambda name: "/" not in name and len(name.encode()) <= 256), NAMES)
def test_any_name_survives_its_url(container: str, name: str) -> None:
    """Quoted and parsed again, every name is what it was."""
    path = f"/v1/AUTH_a/{quote_name(container.encode())}/{quote_name(name.encode())}".encode()
    assert parse_path(path, SETTINGS) == Target("AUTH_a", container.encode(), name.encode())


@given(st.binary(max_size=60))
def test_no_path_raises_anything_else(rest: bytes) -> None:
    """Whatever bytes come, they are a target or a SwiftError."""
    with suppress(SwiftError):
        target = parse_path(b"/v1/" + rest, SETTINGS)
        assert target.account
        assert b"\x00" not in target.container + target.name


def test_objects_in_headers() -> None:
    """Destination and X-Copy-From name an object, with or without a slash before it."""
    for value in (b"c/o/p", b"/c/o/p", b"/c/o%2Fp"):
        assert parse_object_path(value, SETTINGS, "Destination") == (b"c", b"o/p")
    for value in (b"", b"c", b"/c", b"c/", b"//o", b"c/%FF"):
        with pytest.raises(SwiftError) as caught:
            parse_object_path(value, SETTINGS, "Destination")
        assert caught.value.status == 412
    assert parse_account(b"AUTH_%C3%A9") == "AUTH_é"
    for value in (b"", b"a/b", b"%FF", b"x" * 300):
        with pytest.raises(SwiftError):
            parse_account(value)
