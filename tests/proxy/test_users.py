"""Users as values and as records."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.users import (
    CorruptRecord,
    InvalidUser,
    User,
    UserRecord,
    check_key_pair,
    check_new_user,
    check_password,
    decode_record,
    encode_record,
    is_name,
    with_keys,
    without_key,
)

USER = User("science", "ada", "Ada L.", "ada@example.org", True, ("AKIA1",), 1_700_000_000_000_000, b"12345678")
RECORD = UserRecord(USER, (("AKIA1", b"sealed"),), b"salt", b"hash")


def test_a_user_has_an_account_and_an_id() -> None:
    """The account follows from the project, the id from project and name, for ever."""
    assert USER.account == "AUTH_science"
    assert USER.full_name == "science:ada"
    assert len(USER.id) == 64
    assert USER.id == User("science", "ada").id != User("science", "bob").id


def test_nothing_secret_is_printed() -> None:
    """`repr` of a user and of a record shows no stamp, secret, salt or hash."""
    text = repr(USER) + repr(RECORD)
    assert not any(secret in text for secret in ("12345678", "sealed", "salt", "hash"))


def test_a_record_survives_being_stored() -> None:
    """What is decoded is what was encoded."""
    assert decode_record("science:ada", encode_record(RECORD)) == RECORD


@given(st.binary(max_size=200))
def test_rubbish_is_corrupt(data: bytes) -> None:
    """Bytes that are no record raise CorruptRecord and nothing else."""
    with pytest.raises(CorruptRecord):
        decode_record("science:ada", data)


@pytest.mark.parametrize("field", ["version", "project", "name", "admin", "created_us", "stamp", "keys", "password"])
def test_a_record_without_a_field_is_corrupt(field: str) -> None:
    """Each field is needed, and each of the wrong type is noticed or harmless."""
    stored = json.loads(encode_record(RECORD))
    del stored[field]
    with pytest.raises(CorruptRecord):
        decode_record("science:ada", json.dumps(stored).encode())


def test_another_users_record_is_corrupt() -> None:
    """A record that lies under another name is not believed."""
    with pytest.raises(CorruptRecord):
        decode_record("science:bob", encode_record(RECORD))


@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "a/b", "a\x00", "a\n", "a,b", "x" * 121, "ü" * 61, "\ud800", "a%20", "<i>"]
)
def test_names_that_cannot_be(name: str) -> None:
    """Names with characters that URLs, headers or ACLs give a meaning to are refused, as project and as user."""
    assert not is_name(name)
    for project, user in ((name, "ada"), ("science", name)):
        with pytest.raises(InvalidUser):
            check_new_user(project, user, "", "")


def test_names_that_can_be() -> None:
    """Letters of any language, digits and the usual punctuation."""
    for name in ("ada", "Ada.L-1_x", "björn", "数学", "x" * 120, "test$tester", "a@b.c"):
        assert is_name(name)


@pytest.mark.parametrize(
    ("access_key", "secret_key"), [("ab", "x" * 20), ("a b c", "x" * 20), ("x" * 121, "x" * 20), ("good", "short")]
)
def test_keys_that_cannot_be(access_key: str, secret_key: str) -> None:
    """Access keys must fit a signature's credential, secrets must be worth the name."""
    with pytest.raises(InvalidUser):
        check_key_pair(access_key, secret_key)


def test_passwords_must_be_there() -> None:
    """Empty, endless and unencodable passwords are refused."""
    for password in ("", "x" * 1025, "\ud800"):
        with pytest.raises(InvalidUser):
            check_password(password)


def test_keys_come_and_go() -> None:
    """The list of access keys follows the secret keys."""
    more = with_keys(RECORD, (*RECORD.secret_keys, ("AKIA2", b"other")))
    assert more.user.access_keys == ("AKIA1", "AKIA2")
    assert with_keys(more, without_key(more, "AKIA1")).user.access_keys == ("AKIA2",)
