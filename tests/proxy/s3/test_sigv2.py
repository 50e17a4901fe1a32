"""Signature version 2, against botocore's own signers and the examples that AWS published."""

from __future__ import annotations

import string
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3 import sigv2
from proxy.s3.errors import S3Error

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

Headers = dict[bytes, bytes]

keys = st.text(min_size=1, max_size=30).filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text))


def sent(request: AWSRequest) -> tuple[bytes, bytes, Headers]:
    """Path, query and headers as they come out of the HTTP layer."""
    split = urlsplit(request.prepare().url)
    headers = {name.lower().encode(): str(value).strip().encode() for name, value in request.headers.items()}
    return split.path.encode(), split.query.encode(), headers


def verify(
    method: str, path: bytes, query: bytes, headers: Headers, later_s: float = 0.0, host_bucket: bytes | None = None
) -> None:
    """Parse and verify, so many seconds after the request was signed."""
    assert sigv2.has_claim(query, headers)
    claim = sigv2.parse_claim(query, headers)
    assert claim.access_key == ACCESS_KEY
    now_s = (claim.signed_s if claim.signed_s is not None else claim.expires_s or 0) + later_s
    sigv2.verify(claim, SECRET, method, path, query, headers, now_s, host_bucket)


@given(
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
    key=keys,
    marker=keys,
    upload_id=st.text(string.ascii_letters, min_size=1),
    value=st.text(string.ascii_letters + " ;=", max_size=20),
)
def test_what_botocore_signs_is_verified(method: str, key: str, marker: str, upload_id: str, value: str) -> None:
    """Any key, sub-resource and metadata: the header signature is right, and wrong for another path."""
    target = f"/bucket/{quote(key, safe='/~')}?uploadId={upload_id}&marker={quote(marker)}&acl"
    request = AWSRequest(method, "http://h" + target, headers={"x-amz-meta-a": value, "Content-Type": "text/plain"})
    HmacV1Auth(Credentials(ACCESS_KEY, SECRET)).add_auth(request)
    path, query, headers = sent(request)
    verify(method, path, query, headers)
    with pytest.raises(S3Error) as caught:
        verify(method, path + b"x", query, headers)
    assert caught.value.code == "SignatureDoesNotMatch"
    assert "StringToSign" in dict(caught.value.fields)


@given(key=keys, disposition=st.text(string.ascii_letters + ' ;="', min_size=1, max_size=20))
def test_what_botocore_presigns_is_verified(key: str, disposition: str) -> None:
    """Any key and response override: the presigned URL is right until it expires."""
    target = f"/bucket/{quote(key, safe='/~')}?response-content-disposition={quote(disposition)}"
    request = AWSRequest("GET", "http://h" + target)
    HmacV1QueryAuth(Credentials(ACCESS_KEY, SECRET), expires=100).add_auth(request)
    path, query, headers = sent(request)
    del headers[b"date"]
    verify("GET", path, query, headers)
    with pytest.raises(S3Error) as caught:
        verify("GET", path, query, headers, later_s=1)
    assert (caught.value.code, caught.value.message) == ("AccessDenied", "Request has expired")


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "host_bucket", "signature"),
    [
        (
            "GET", b"/photos/puppy.jpg", b"", {b"date": b"Tue, 27 Mar 2007 19:36:42 +0000"}, b"awsexamplebucket1",
            b"qgk2+6Sv9/oM7G3qLEjTH1a1l1g=",
        ),
        (
            "PUT", b"/photos/puppy.jpg", b"",
            {b"date": b"Tue, 27 Mar 2007 21:15:45 +0000", b"content-type": b"image/jpeg"}, b"awsexamplebucket1",
            b"iqRzw+ileNPu1fhspnRs8nOjjIA=",
        ),
        (
            "GET", b"/", b"prefix=photos&max-keys=50&marker=puppy", {b"date": b"Tue, 27 Mar 2007 19:42:41 +0000"},
            b"awsexamplebucket1", b"m0WP8eCtspQl5Ahe6L1SozdX9YA=",
        ),
        (
            "GET", b"/", b"acl", {b"date": b"Tue, 27 Mar 2007 19:44:46 +0000"}, b"awsexamplebucket1",
            b"82ZHiFIjc+WbcwFKGUVEQspPn+0=",
        ),
    ],
)  # fmt: skip
def test_published_examples(
    method: str, path: bytes, query: bytes, headers: Headers, host_bucket: bytes, signature: bytes
) -> None:
    """Signatures that the Developer Guide works out are verified, with the bucket in the host."""
    headers = {**headers, b"authorization": b"AWS AKIAIOSFODNN7EXAMPLE:" + signature}
    verify(method, path, query, headers, host_bucket=host_bucket)


def test_x_amz_date_replaces_date() -> None:
    """With x-amz-date the Date line is empty, and that header is what is compared with the clock."""
    headers = {b"x-amz-date": b"Tue, 27 Mar 2007 21:20:26 +0000", b"date": b"nonsense"}
    claim = sigv2.parse_claim(b"", {**headers, b"authorization": b"AWS AK:c2ln"})
    assert claim.date == b""
    assert claim.signed_s == parsedate_to_datetime("Tue, 27 Mar 2007 21:20:26 +0000").timestamp()


@pytest.mark.parametrize("later_s", [-901, 901])
def test_too_much_skew(later_s: int) -> None:
    """Fifteen minutes either way are forgiven, no more."""
    request = AWSRequest("GET", "http://h/b/k")
    HmacV1Auth(Credentials(ACCESS_KEY, SECRET)).add_auth(request)
    path, query, headers = sent(request)
    with pytest.raises(S3Error) as caught:
        verify("GET", path, query, headers, later_s)
    assert caught.value.code == "RequestTimeTooSkewed"


@pytest.mark.parametrize(
    ("query", "headers", "code"),
    [
        (b"", {b"authorization": b"AWS nonsense"}, "InvalidArgument"),
        (b"", {b"authorization": b"AWS :sig"}, "InvalidArgument"),
        (b"", {b"authorization": b"AWS key:"}, "InvalidArgument"),
        (b"", {b"authorization": b"AWS k\xff:sig"}, "InvalidArgument"),
        (b"", {b"authorization": b"AWS key:sig"}, "AccessDenied"),
        (b"", {b"authorization": b"AWS key:sig", b"date": b"today"}, "AccessDenied"),
        (b"AWSAccessKeyId=a", {}, "AccessDenied"),
        (b"AWSAccessKeyId=a&Signature=b", {}, "AccessDenied"),
        (b"AWSAccessKeyId=a&Signature=b&Expires=soon", {}, "AccessDenied"),
        (b"AWSAccessKeyId=a&Signature=b&Expires=-5", {}, "AccessDenied"),
        (b"AWSAccessKeyId=a&Signature=b&Expires=5", {b"authorization": b"AWS key:sig"}, "InvalidArgument"),
    ],
)
def test_malformed_claims(query: bytes, headers: Headers, code: str) -> None:
    """Each way of getting it wrong has its error."""
    with pytest.raises(S3Error) as caught:
        sigv2.parse_claim(query, headers)
    assert caught.value.code == code
