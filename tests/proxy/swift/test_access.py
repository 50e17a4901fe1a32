"""Container ACLs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.swift.access import clean_read_acl, clean_write_acl, may_read, may_write, owns, referrer_granted
from proxy.users import User

ADA = User("science", "ada")
BOB = User("art", "bob")
ADMIN = User("ops", "root", admin=True)


@pytest.mark.parametrize(
    ("given_acl", "cleaned"),
    [
        ("", ""),
        (".r:*", ".r:*"),
        (".ref:*, .referer:-.thief.com ,.referrer: *.example.com", ".r:*,.r:-.thief.com,.r:.example.com"),
        ("science:ada , art:* ,, *:bob", "science:ada,art:*,*:bob"),
        ("science : ada", "science:ada"),
        (".rlistings,art", ".rlistings,art"),
    ],
)
def test_acls_in_short(given_acl: str, cleaned: str) -> None:
    """Spaces and long spellings go."""
    assert clean_read_acl(given_acl) == cleaned
    assert clean_read_acl(cleaned) == cleaned


@pytest.mark.parametrize("acl", [".r:", ".r:-", ".unknown", ".rlistings:x", ".r", ".r:.", "x," + "y" * 5000])
def test_acls_that_make_no_sense(acl: str) -> None:
    """What could not be understood later is refused now."""
    with pytest.raises(ValueError, match=r"."):
        clean_read_acl(acl)


def test_writing_is_not_for_referrers() -> None:
    """Anybody can forge a Referer, so it grants no writes."""
    with pytest.raises(ValueError, match="referrer"):
        clean_write_acl(".r:*")
    assert clean_write_acl("science:ada") == "science:ada"


@pytest.mark.parametrize(
    "acl", ["science:ada", "science:*", "*:ada", "*:*", "science", "AUTH_science", "x:y,science:ada"]
)
def test_users_that_are_named(acl: str) -> None:
    """Each way of naming a user grants reading, listing and writing to that user, and nothing to the nameless."""
    assert may_read(acl, ADA, None, listing=False)
    assert may_read(acl, ADA, None, listing=True)
    assert may_write(acl, ADA)
    assert not may_read(acl, None, None, listing=False)
    assert not may_write(acl, None)


@pytest.mark.parametrize("acl", ["", "art:bob", "science:eve", "science:ada:x", "SCIENCE:ada", "ada"])
def test_users_that_are_not(acl: str) -> None:
    """Who is not named is not let in."""
    assert not may_read(acl, ADA, None, listing=False)
    assert not may_write(acl, ADA)


def test_the_public() -> None:
    """.r:* lets everybody read objects; listings take .rlistings as well."""
    assert may_read(".r:*", None, None, listing=False)
    assert not may_read(".r:*", None, None, listing=True)
    assert may_read(".r:*,.rlistings", None, None, listing=True)
    assert may_read(".r:*,.rlistings", BOB, None, listing=True)
    assert not may_read(".rlistings", None, None, listing=True)


def test_referrers() -> None:
    """Hosts and domains, allowed and denied, the last that fits deciding."""
    acl = ".r:.example.com,.r:-thief.example.com"
    assert referrer_granted(acl, b"http://www.example.com/page")
    assert not referrer_granted(acl, b"http://thief.example.com/page")
    assert not referrer_granted(acl, b"http://example.org/")
    assert not referrer_granted(acl, None)
    assert referrer_granted(".r:example.org", b"https://example.org:8443/x")
    assert not referrer_granted(".r:*,.r:-.example.com", b"http://a.example.com")


@given(st.text(max_size=80), st.binary(max_size=80))
def test_no_acl_and_no_referrer_breaks_anything(acl: str, referrer: bytes) -> None:
    """Whatever was stored and whatever is sent, the answer is yes or no."""
    assert may_read(acl, ADA, referrer, listing=True) in (True, False)
    assert may_write(acl, ADA) in (True, False)


def test_owners() -> None:
    """A user owns the account of the project, an administrator all but the reserved ones, nobody nothing."""
    assert owns(ADA, "AUTH_science")
    assert not owns(ADA, "AUTH_art")
    assert owns(ADMIN, "AUTH_art")
    assert not owns(ADMIN, ".ringstead")
    assert not owns(None, "AUTH_art")
