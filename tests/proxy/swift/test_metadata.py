"""Headers to metadata and back."""

from __future__ import annotations

import pytest

from proxy.http.message import HeaderList
from proxy.swift.errors import SwiftError
from proxy.swift.metadata import (
    add_catalog_headers,
    add_object_headers,
    catalog_changes,
    check_merged,
    expired,
    kept_metadata,
    object_metadata,
)
from proxy.swift.settings import SwiftSettings

SETTINGS = SwiftSettings()
NOW_S = 1_700_000_000.5


def of_object(**headers: bytes) -> dict[str, str]:
    """The metadata of an object with these headers (underscores are dashes)."""
    return object_metadata({name.replace("_", "-").encode(): value for name, value in headers.items()}, SETTINGS, NOW_S)


def refused(**headers: bytes) -> str:
    """The message that these headers are refused with."""
    with pytest.raises(SwiftError) as caught:
        of_object(**headers)
    assert caught.value.status == 400
    return caught.value.message


def test_an_objects_headers() -> None:
    """User metadata and standard headers are kept; all else is none of ours."""
    metadata = of_object(
        x_object_meta_color=b"r\xc3\xb6t", x_object_meta_empty=b"", content_encoding=b"gzip", accept=b"*/*", etag=b"x"
    )
    assert metadata == {"meta:color": "röt", "meta:empty": "", "content-encoding": "gzip"}


def test_what_was_stored_comes_back() -> None:
    """Metadata becomes the headers that it came from, words capitalized."""
    headers: HeaderList = []
    metadata = {
        "meta:my-color": "röt",
        "content-disposition": "inline",
        "delete-at": "1800000000",
        "dlo": "c/p%20q",
        "sys:x": "y",
        "checksum:crc32": "z",
    }
    add_object_headers(headers, metadata)
    assert headers == [
        (b"X-Object-Meta-My-Color", "röt".encode()),
        (b"Content-Disposition", b"inline"),
        (b"X-Delete-At", b"1800000000"),
        (b"X-Object-Manifest", b"c/p%20q"),
    ]


def test_no_value_makes_a_header_of_its_own() -> None:
    """Line ends that another dialect stored do not become line ends of a response."""
    headers: HeaderList = []
    add_object_headers(headers, {"meta:a": "x\r\nSet-Cookie: y"})
    assert headers == [(b"X-Object-Meta-A", b"x  Set-Cookie: y")]


def test_limits_of_metadata() -> None:
    """Each limit that /info announces is enforced at its edge."""
    assert "empty" in refused(x_object_meta_=b"v")
    assert "UTF-8" in refused(x_object_meta_a=b"\xff")
    assert of_object(**{"x_object_meta_" + "n" * 128: b"v" * 256})
    assert "name too long" in refused(**{"x_object_meta_" + "n" * 129: b"v"})
    assert "value longer" in refused(x_object_meta_a=b"v" * 257)
    assert len(of_object(**{f"x_object_meta_{i}": b"" for i in range(90)})) == 90
    assert "Too many" in refused(**{f"x_object_meta_{i}": b"" for i in range(91)})
    assert of_object(**{f"x_object_meta_{i:03}": b"v" * 253 for i in range(16)})
    assert "too large" in refused(**{f"x_object_meta_{i:03}": b"v" * 254 for i in range(16)})


def test_expiry() -> None:
    """X-Delete-After counts from now and wins over X-Delete-At; the past is refused."""
    assert of_object(x_delete_at=b"1800000000") == {"delete-at": "1800000000"}
    assert of_object(x_delete_after=b"60", x_delete_at=b"1800000000") == {"delete-at": "1700000060"}
    assert "in past" in refused(x_delete_at=b"1600000000")
    assert "in past" in refused(x_delete_after=b"0")
    assert "in past" in refused(x_delete_after=b"-5")
    assert "Non-integer" in refused(x_delete_at=b"soon")
    assert "Non-integer" in refused(x_delete_after=b"1.5")
    assert of_object(x_delete_after=b"9" * 40)
    assert of_object(x_delete_at=b"") == {}


def test_expired() -> None:
    """An object is gone from the very second on."""
    assert expired({"delete-at": "1700000000"}, NOW_S)
    assert not expired({"delete-at": "1700000001"}, NOW_S)
    assert not expired({}, NOW_S)
    assert not expired({"delete-at": "rubbish"}, NOW_S)


def test_dynamic_manifests() -> None:
    """X-Object-Manifest names a container and a prefix, percent-encoded, and is kept as it came."""
    assert of_object(x_object_manifest=b"c/p%20q") == {"dlo": "c/p%20q"}
    for value in (b"c", b"c/", b"/", b"c/p?x", b"%00c/p"):
        assert "container/prefix" in refused(x_object_manifest=value)


def test_what_a_post_keeps() -> None:
    """Checksums and the other dialect's items belong to the data; user metadata goes."""
    metadata = {"meta:a": "b", "checksum:crc32": "x", "sys:y": "z", "delete-at": "5", "content-encoding": "gzip"}
    assert kept_metadata(metadata) == {"checksum:crc32": "x", "sys:y": "z"}


def of_container(headers: dict[bytes, bytes]) -> dict[str, str]:
    """What a request changes of a container."""
    return catalog_changes(headers, b"container", SETTINGS)


def test_changes_of_a_container() -> None:
    """Items are set, removed by an empty value, or by X-Remove-, which wins."""
    changes = of_container(
        {
            b"x-container-meta-a": b"1",
            b"x-container-meta-b": b"",
            b"x-remove-container-meta-c": b"x",
            b"x-container-meta-d": b"2",
            b"x-remove-container-meta-d": b"x",
            b"x-account-meta-e": b"not mine",
        }
    )
    assert changes == {"meta:a": "1", "meta:b": "", "meta:c": "", "meta:d": ""}


def test_acls_of_a_container() -> None:
    """ACLs are stored in their short form, removed when empty or asked to be, refused when they make no sense."""
    assert of_container({b"x-container-read": b" .referrer:* , .rlistings ", b"x-container-write": b"a:b"}) == {
        "sys:read-acl": ".r:*,.rlistings",
        "sys:write-acl": "a:b",
    }
    assert of_container({b"x-container-read": b""}) == {"sys:read-acl": ""}
    assert of_container({b"x-remove-container-write": b"x"}) == {"sys:write-acl": ""}
    for headers in ({b"x-container-read": b".bogus"}, {b"x-container-write": b".r:*"}, {b"x-container-read": b"\xff"}):
        with pytest.raises(SwiftError) as caught:
            of_container(headers)
        assert caught.value.status == 400


def test_merged_metadata_is_limited() -> None:
    """One at a time does not get past the limit; replacing and removing does not count twice."""
    existing = {f"meta:{i}": "v" for i in range(90)}
    with pytest.raises(SwiftError):
        check_merged(existing, {"meta:new": "v"}, SETTINGS)
    check_merged(existing, {"meta:1": "other", "meta:2": ""}, SETTINGS)


def test_what_strangers_see_of_a_container() -> None:
    """ACLs and signing keys are for the owner."""
    metadata = {"meta:a": "1", "meta:temp-url-key": "s", "sys:read-acl": ".r:*", "sys:write-acl": "a:b"}
    owner: HeaderList = []
    add_catalog_headers(owner, metadata, b"X-Container-Meta-", owner=True)
    assert owner == [
        (b"X-Container-Meta-A", b"1"),
        (b"X-Container-Meta-Temp-Url-Key", b"s"),
        (b"X-Container-Read", b".r:*"),
        (b"X-Container-Write", b"a:b"),
    ]
    stranger: HeaderList = []
    add_catalog_headers(stranger, metadata, b"X-Container-Meta-", owner=False)
    assert stranger == [(b"X-Container-Meta-A", b"1")]
