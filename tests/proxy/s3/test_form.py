"""Form uploads: the form and the policy."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3.errors import S3Error
from proxy.s3.form import FIELDS_BYTES_MAX, FormReader, boundary_of
from proxy.s3.post_policy import check_policy, parse_policy

BOUNDARY = b"----WebKitFormBoundaryX"
NOW_S = 1_700_000_000.0
LATER = "2030-01-01T00:00:00Z"


class Pieces:
    """A body that comes in pieces."""

    def __init__(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
        self._pieces = [data[a:b] for a, b in itertools.pairwise(bounds) if a < b]

    async def read(self) -> bytes:
        """The next piece."""
        return self._pieces.pop(0) if self._pieces else b""


def form(fields: Sequence[tuple[str, str]], file: bytes | None, after: bytes = b"") -> bytes:
    """A form as a browser sends it."""
    parts = [
        b"--" + BOUNDARY + f'\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    if file is not None:
        head = b'\r\nContent-Disposition: form-data; name="file"; filename="C:\\\\dir\\\\a.txt"\r\nContent-Type: x/y\r\n\r\n'
        parts.append(b"--" + BOUNDARY + head + file + b"\r\n")
    return b"".join(parts) + after + b"--" + BOUNDARY + b"--\r\n"


async def read_file(reader: FormReader) -> bytes:
    """The file of a form."""
    pieces = []
    while piece := await reader.read():
        pieces.append(piece)
    return b"".join(pieces)


async def run(body: Pieces) -> tuple[dict[str, str], bytes, str]:
    """Fields, file and file name of a form."""
    reader = FormReader(body, BOUNDARY)
    fields = await reader.read_fields()
    return fields, await read_file(reader), reader.file_name


@given(
    st.binary(max_size=200) | st.lists(st.sampled_from([b"\r\n", b"--", BOUNDARY, b"-", b"x"])).map(b"".join),
    st.lists(st.integers(0, 2000), max_size=12),
)
async def test_the_file_arrives_however_the_body_is_cut(file: bytes, cuts: list[int]) -> None:
    """Fields and file are the same whatever pieces the body comes in, and whatever the file holds but the delimiter."""
    if b"\r\n--" + BOUNDARY in b"\r\n" + file + b"\r\n":
        return
    body = form([("key", "a/${filename}"), ("Content-Type", "text/plain")], file)
    fields, got, name = await run(Pieces(body, cuts))
    assert fields == {"key": "a/${filename}", "content-type": "text/plain"}
    assert got == file
    assert name == "a.txt"


async def test_what_follows_the_file_is_ignored() -> None:
    """Fields after the file do not count, as at AWS."""
    after = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="key"\r\n\r\nother\r\n'
    fields, got, _ = await run(Pieces(form([("key", "a")], b"data", after)))
    assert (fields, got) == ({"key": "a"}, b"data")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MalformedPOSTRequest"),
        (b"nonsense", "MalformedPOSTRequest"),
        (form([("key", "a")], None), "IncorrectNumberOfFilesInPostRequest"),
        (form([("key", "x" * FIELDS_BYTES_MAX)], b"data"), "MaxPostPreDataLengthExceededError"),
        (form([(f"f{i}", "x") for i in range(200)], b"data"), "MaxPostPreDataLengthExceededError"),
        (
            b"--" + BOUNDARY + b"\r\nContent-Type: text/plain\r\n\r\nvalue\r\n--" + BOUNDARY + b"--",
            "MalformedPOSTRequest",
        ),
        (form([("key", "a")], b"data")[:-40], "MalformedPOSTRequest"),
        (form([("key", "KEY")], b"data").replace(b"KEY", b"\xff"), "MalformedPOSTRequest"),
    ],
)
async def test_forms_that_make_no_sense_are_refused(body: bytes, code: str) -> None:
    """No file, too many or too long fields, no names, an end before the end."""
    with pytest.raises(S3Error, match=code):
        await run(Pieces(body))


def test_the_boundary_is_found_in_the_content_type() -> None:
    """Quoted or bare; anything else is no form."""
    assert boundary_of(b"multipart/form-data; boundary=abc") == b"abc"
    assert boundary_of(b'Multipart/Form-Data; charset=utf-8; boundary="a b"') == b"a b"
    for value in (b"", b"text/plain; boundary=abc", b"multipart/form-data", b"multipart/form-data; boundary="):
        with pytest.raises(S3Error, match="MalformedPOSTRequest"):
            boundary_of(value)


def policy(conditions: Any, expiration: Any = LATER) -> str:
    """An encoded policy."""
    return base64.b64encode(json.dumps({"expiration": expiration, "conditions": conditions}).encode()).decode()


BUCKET: list[Any] = [{"bucket": "b"}]


def test_a_form_within_its_policy_passes() -> None:
    """Exact and prefix conditions in any case, the unsigned fields, x-ignore- fields."""
    read = parse_policy(
        policy(
            [{"bUcKeT": "b"}, ["StArTs-WiTh", "$KeY", "foo"], ["eq", "$acl", "private"], ["content-length-range", 1, 5]]
        )
    )
    assert (read.length_min, read.length_max) == (1, 5)
    fields = {
        "key": "foo.txt",
        "acl": "private",
        "policy": "x",
        "signature": "y",
        "awsaccesskeyid": "z",
        "x-ignore-a": "",
    }
    check_policy(read, fields, "b", NOW_S)


@pytest.mark.parametrize(
    ("conditions", "fields", "bucket"),
    [
        ([{"key": "a"}], {"key": "a"}, "b"),
        ([*BUCKET, {"key": "a"}], {"key": "a"}, "other"),
        ([*BUCKET, {"key": "a"}], {"key": "b"}, "b"),
        ([*BUCKET, ["starts-with", "$key", "a"]], {"key": "ba"}, "b"),
        ([*BUCKET, ["starts-with", "$key", "a"], {"acl": "private"}], {"key": "a"}, "b"),
        ([*BUCKET, {"key": "a"}], {"key": "a", "x-amz-meta-x": "1"}, "b"),
        ([*BUCKET, {"key": "a"}, ["eq", "$x-amz-meta-x", ""]], {"key": "a", "x-amz-meta-x": "1"}, "b"),
    ],
)
def test_a_form_outside_its_policy_is_denied(conditions: Any, fields: dict[str, str], bucket: str) -> None:
    """A missing bucket, another value, a missing field, a field that nobody allowed."""
    with pytest.raises(S3Error, match="AccessDenied"):
        check_policy(parse_policy(policy(conditions)), fields, bucket, NOW_S)


def test_an_expired_policy_is_denied() -> None:
    """The policy's own date counts."""
    with pytest.raises(S3Error, match="AccessDenied"):
        check_policy(parse_policy(policy([*BUCKET], "2001-01-01T00:00:00Z")), {}, "b", NOW_S)


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "!!!",
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b"{").decode(),
        base64.b64encode(b"[" * 100_000).decode(),
        base64.b64encode(json.dumps({"expiration": LATER}).encode()).decode(),
        base64.b64encode(json.dumps({"conditions": []}).encode()).decode(),
        base64.b64encode(json.dumps({"EXPIRATION": LATER, "conditions": []}).encode()).decode(),
        policy([{}]),
        policy([{"a": 1}]),
        policy([{"a": "1", "b": "2"}]),
        policy([["eq", "key", "a"]]),
        policy([["matches", "$key", "a"]]),
        policy([["content-length-range", 0]]),
        policy([["content-length-range", -1, 0]]),
        policy([["content-length-range", 5, 1]]),
        policy([["content-length-range", "a", "b"]]),
        policy([], "tomorrow"),
        policy([], "2030-01-01 00:00:00+00:00"),
        policy([], 5),
    ],
)
def test_policies_that_are_none_are_refused(encoded: str) -> None:
    """Whatever is not understood refuses the policy."""
    with pytest.raises(S3Error, match="InvalidPolicyDocument"):
        parse_policy(encoded)
