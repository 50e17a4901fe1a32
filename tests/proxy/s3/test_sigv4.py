"""Signature version 4, against botocore's own signers and the examples that AWS publishes."""

from __future__ import annotations

import string
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3 import sigv4
from proxy.s3.errors import S3Error

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
HOST = "s3.example.test:8080"

Headers = dict[bytes, bytes]

keys = st.text(min_size=1, max_size=40).filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text))
header_text = st.text(string.ascii_letters + string.digits + " ,;:=/+-_~", max_size=30)
header_names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=12)


def sent(request: AWSRequest) -> tuple[bytes, bytes, Headers]:
    """Path, query and headers as they go over the wire and come out of the HTTP layer."""
    split = urlsplit(request.prepare().url)
    headers = {name.lower().encode(): str(value).strip().encode() for name, value in request.headers.items()}
    headers[b"host"] = split.netloc.encode()
    return split.path.encode(), split.query.encode(), headers


def signed(
    method: str = "GET", target: str = "/bucket/key", headers: dict[str, str] | None = None, data: bytes = b""
) -> tuple[bytes, bytes, Headers]:
    """A request that botocore signed in its headers."""
    request = AWSRequest(method, f"http://{HOST}{target}", headers=headers or {}, data=data)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET), "s3", "us-east-1").add_auth(request)
    return sent(request)


def presigned(method: str = "GET", target: str = "/bucket/key", expires_s: int = 60) -> tuple[bytes, bytes, Headers]:
    """A request that botocore signed in its query."""
    request = AWSRequest(method, f"http://{HOST}{target}")
    S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET), "s3", "us-east-1", expires=expires_s).add_auth(request)
    return sent(request)


def verify(
    method: str, path: bytes, query: bytes, headers: Headers, later_s: float = 0.0, secret: str = SECRET
) -> sigv4.ChunkSigning:
    """Parse and verify, so many seconds after the request was signed."""
    claim = sigv4.parse_claim(query, headers)
    assert claim.access_key == ACCESS_KEY
    return sigv4.Verifier().verify(claim, secret, method, path, query, headers, claim.signed_s + later_s)


def error_of(
    method: str, path: bytes, query: bytes, headers: Headers, later_s: float = 0.0, secret: str = SECRET
) -> S3Error:
    """The error that `verify` raises."""
    with pytest.raises(S3Error) as caught:
        verify(method, path, query, headers, later_s, secret)
    return caught.value


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    key=keys,
    parameters=st.dictionaries(keys, keys, max_size=4),
    metadata=st.dictionaries(header_names, header_text, max_size=4),
    data=st.binary(max_size=20),
)
def test_what_botocore_signs_is_verified(
    method: str, key: str, parameters: dict[str, str], metadata: dict[str, str], data: bytes
) -> None:
    """Any key, query and metadata: the header signature is right, and wrong for another secret."""
    target = "/bucket/" + quote(key, safe="/~")
    if parameters:
        target += "?" + "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in parameters.items()
        )
    headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
    request = signed(method, target, headers, data)
    assert verify(method, *request).amz_date.startswith("20")
    assert error_of(method, *request, secret="another").code == "SignatureDoesNotMatch"


@given(
    method=st.sampled_from(["GET", "PUT"]),
    key=keys,
    parameters=st.dictionaries(st.text(string.ascii_letters + "-", min_size=1), keys, max_size=3),
)
def test_what_botocore_presigns_is_verified(method: str, key: str, parameters: dict[str, str]) -> None:
    """Any key and query: the presigned URL is right, and wrong for another method."""
    target = "/bucket/" + quote(key, safe="/~")
    if parameters:
        target += "?" + "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in parameters.items())
    request = presigned(method, target)
    verify(method, *request)
    assert error_of("DELETE", *request).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("client_path", "signed_path"),
    [
        (b"/b/a%7Eb", b"/b/a~b"),
        (b"/b/a~b", b"/b/a~b"),
        (b"/b/a+b", b"/b/a%2Bb"),
        (b"/b/a%2bb", b"/b/a%2Bb"),
        (b"/b/a(1)!*'", b"/b/a%281%29%21%2A%27"),
        (b"/b/%c3%a9", b"/b/%C3%A9"),
        (b"/b//x/../y/.", b"/b//x/../y/."),
        (b"/b/%2F", b"/b//"),
        (b"/b/100%", b"/b/100%25"),
    ],
)
def test_every_spelling_of_a_path_is_one(client_path: bytes, signed_path: bytes) -> None:
    """Paths are decoded once and encoded by S3's rules; dots and empty segments stay."""
    assert sigv4.canonical_path(client_path) == signed_path


@pytest.mark.parametrize(
    ("client_query", "signed_query"),
    [
        (b"", b""),
        (b"uploads", b"uploads="),
        (b"b=2&a=1", b"a=1&b=2"),
        (b"a=2&a=1", b"a=1&a=2"),
        (b"prefix=a+b%2Bc", b"prefix=a%20b%2Bc"),
        (b"x=%7e&&y", b"x=~&y="),
        (b"X-Amz-Signature=00&marker=/", b"marker=%2F"),
        (b"a=b=c", b"a=b%3Dc"),
    ],
)
def test_every_spelling_of_a_query_is_one(client_query: bytes, signed_query: bytes) -> None:
    """Queries are decoded, encoded and sorted, and the signature is left out."""
    assert sigv4.canonical_query(client_query) == signed_query


PUBLISHED_HEADERS = {
    b"host": b"examplebucket.s3.amazonaws.com",
    b"x-amz-date": b"20130524T000000Z",
    b"x-amz-content-sha256": b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}


@pytest.mark.parametrize(
    ("method", "path", "query", "more", "signature"),
    [
        (
            "GET", b"/test.txt", b"", {b"range": b"bytes=0-9"},
            b"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT", b"/test$file.text", b"",
            {
                b"date": b"Fri, 24 May 2013 00:00:00 GMT",
                b"x-amz-storage-class": b"REDUCED_REDUNDANCY",
                b"x-amz-content-sha256": b"44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            },
            b"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET", b"/", b"lifecycle", {},
            b"fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET", b"/", b"max-keys=2&prefix=J", {},
            b"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)  # fmt: skip
def test_published_examples(method: str, path: bytes, query: bytes, more: Headers, signature: bytes) -> None:
    """The four signatures that the S3 API Reference works out are verified."""
    headers = {**PUBLISHED_HEADERS, **more}
    names = b";".join(sorted(headers))
    headers[b"authorization"] = (
        b"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        b"SignedHeaders=" + names + b",Signature=" + signature
    )
    verify(method, path, query, headers)


def test_the_published_presigned_url() -> None:
    """The presigned URL that the S3 API Reference works out is verified for a day, and no longer."""
    query = (
        b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        b"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        b"&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    request = (b"/test.txt", query, {b"host": b"examplebucket.s3.amazonaws.com"})
    verify("GET", *request)
    verify("GET", *request, later_s=86400)
    error = error_of("GET", *request, later_s=86401)
    assert (error.code, error.message) == ("AccessDenied", "Request has expired")
    assert dict(error.fields)["Expires"] == "2013-05-25T00:00:00Z"
    assert error_of("GET", *request, later_s=-901).message == "Request is not yet valid"


@pytest.mark.parametrize("later_s", [-900, 0, 900])
def test_some_skew_is_forgiven(later_s: int) -> None:
    """Fifteen minutes either way."""
    verify("GET", *signed(), later_s=later_s)


@pytest.mark.parametrize("later_s", [-901, 901, 10**9])
def test_too_much_skew_is_not(later_s: int) -> None:
    """Beyond, both clocks are told."""
    error = error_of("GET", *signed(), later_s=later_s)
    assert error.code == "RequestTimeTooSkewed"
    assert dict(error.fields)["MaxAllowedSkewMilliseconds"] == "900000"
    assert set(dict(error.fields)) == {"RequestTime", "ServerTime", "MaxAllowedSkewMilliseconds"}


@pytest.mark.parametrize(
    "change",
    [
        lambda path, query, headers: (path + b"x", query, headers),
        lambda path, query, headers: (path, b"acl", headers),
        lambda path, query, headers: (path, query, {**headers, b"host": b"elsewhere"}),
        lambda path, query, headers: (path, query, {**headers, b"x-amz-meta-a": b"2"}),
        lambda path, query, headers: (path, query, {**headers, b"x-amz-content-sha256": b"0" * 64}),
    ],
)
def test_nothing_that_was_signed_can_be_changed(change: object) -> None:
    """Path, query, host, metadata, payload hash: another one, and the signature is wrong."""
    request = signed("PUT", headers={"x-amz-meta-a": "1"})
    verify("PUT", *request)
    error = error_of("PUT", *change(*request))  # type: ignore[operator]
    assert error.code == "SignatureDoesNotMatch"
    fields = dict(error.fields)
    assert fields["AWSAccessKeyId"] == ACCESS_KEY
    assert fields["StringToSign"].startswith("AWS4-HMAC-SHA256\n")
    assert bytes.fromhex(fields["StringToSignBytes"]) == fields["StringToSign"].encode()
    assert fields["CanonicalRequest"].startswith("PUT\n")
    assert SECRET not in repr(fields)


@pytest.mark.parametrize("name", [b"x-amz-acl", b"x-amz-meta-more", b"x-amz-copy-source"])
def test_an_x_amz_header_that_is_not_signed_is_refused(name: bytes) -> None:
    """Nobody can add an x-amz- header on the way, to a signed or a presigned request."""
    for path, query, headers in (signed(), presigned()):
        error = error_of("GET", path, query, {**headers, name: b"x"})
        assert error.code == "AccessDenied"
        assert dict(error.fields)["HeadersNotSigned"] == name.decode()


def test_host_must_be_signed() -> None:
    """A signature that leaves the host out could be replayed elsewhere."""
    path, query, headers = signed()
    headers[b"authorization"] = headers[b"authorization"].replace(b"host;", b"")
    assert error_of("GET", path, query, headers).code == "AccessDenied"


GOOD = (
    b"AWS4-HMAC-SHA256 Credential=AK/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature="
    + b"0" * 64
)


@pytest.mark.parametrize(
    "authorization",
    [
        b"AWS4-HMAC-SHA256 ",
        b"AWS4-HMAC-SHA256 nonsense",
        GOOD.replace(b"Credential=", b"Credentials="),
        GOOD.replace(b"AK/", b"/"),
        GOOD.replace(b"AK/", b"A\xff/"),
        GOOD.replace(b"AK/20130524", b"AK/2013052"),
        GOOD.replace(b"AK/20130524", b"AK/20130525"),
        GOOD.replace(b"/us-east-1", b""),
        GOOD.replace(b"us-east-1", b""),
        GOOD.replace(b"/s3/", b"/ec2/"),
        GOOD.replace(b"aws4_request", b"aws5_request"),
        GOOD.replace(b"SignedHeaders=host;x-amz-date", b"SignedHeaders="),
        GOOD.replace(b", SignedHeaders=host;x-amz-date", b""),
        GOOD.replace(b"Signature=", b"Sig="),
        GOOD[:-1],
        GOOD[:-1] + b"G",
        GOOD + b", Signature=" + b"0" * 64,
        GOOD.replace(b", SignedHeaders", b", SignedHeaders=x, SignedHeaders"),
    ],
)
def test_malformed_headers_are_told(authorization: bytes) -> None:
    """Each way of getting the header wrong is an AuthorizationHeaderMalformed that says which."""
    with pytest.raises(S3Error) as caught:
        sigv4.parse_claim(b"", {**PUBLISHED_HEADERS, b"authorization": authorization})
    assert caught.value.code == "AuthorizationHeaderMalformed"
    assert len(caught.value.message) > 40


def test_the_order_of_the_parts_is_free() -> None:
    """Credential, SignedHeaders and Signature may come in any order, with or without spaces."""
    path, query, headers = signed()
    algorithm, rest = headers[b"authorization"].split(b" ", 1)
    parts = [part.strip() for part in rest.split(b",")]
    for order in ((2, 1, 0), (1, 2, 0), (0, 1, 2)):
        headers[b"authorization"] = algorithm + b" " + b",".join(parts[index] for index in order)
        verify("GET", path, query, headers)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"X-Amz-Expires=60", b"X-Amz-Expires=0"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=604801"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=-1"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=soon"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=99999999999999999999"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires="),
        (b"X-Amz-Expires=60&", b""),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=60&X-Amz-Expires=600"),
        (b"X-Amz-Algorithm=AWS4-HMAC-SHA256", b"X-Amz-Algorithm=AWS4-HMAC-SHA1"),
        (b"X-Amz-SignedHeaders=host&", b""),
        (b"X-Amz-Credential=", b"X-Amz-Credential=x"[:-1] + b"%2F"),
        (b"us-east-1%2Fs3", b"us-east-1%2Fec2"),
        (b"X-Amz-Date=", b"X-Amz-Date=x"),
    ],
)
def test_malformed_presigned_queries_are_told(old: bytes, new: bytes) -> None:
    """Each way of getting the query wrong is an AuthorizationQueryParametersError."""
    path, query, headers = presigned()
    assert old in query
    error = error_of("GET", path, query.replace(old, new), headers)
    assert error.code == "AuthorizationQueryParametersError"


def test_one_mechanism_only() -> None:
    """A presigned request with an Authorization header is refused."""
    path, query, headers = presigned()
    error = error_of("GET", path, query, {**headers, b"authorization": GOOD})
    assert error.code == "InvalidArgument"


def test_the_date_may_be_in_either_header() -> None:
    """Without x-amz-date the Date header counts; without both there is no signature."""
    headers = {**PUBLISHED_HEADERS, b"authorization": GOOD.replace(b"x-amz-date", b"date")}
    del headers[b"x-amz-date"]
    for good in (b"Fri, 24 May 2013 00:00:00 GMT", b"Fri, 24 May 2013 00:00:00 -0000"):
        headers[b"date"] = good
        assert sigv4.parse_claim(b"", headers).amz_date == "20130524T000000Z"
    for bad in (b"", b"yesterday", b"Fri, 24 May 2013 00:00:00"):
        with pytest.raises(S3Error) as caught:
            sigv4.parse_claim(b"", {**headers, b"date": bad})
        assert caught.value.code == "AccessDenied"
    for bad in (b"20130532T000000Z", b"20130524T250000Z", b"2013", b"19690101T000000Z"):
        with pytest.raises(S3Error) as caught:
            sigv4.parse_claim(b"", {**headers, b"x-amz-date": bad})
        assert caught.value.code == "AccessDenied"


@pytest.mark.parametrize(
    "payload", [b"", b"unsigned", b"0" * 63, b"g" * 64, b"STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"]
)
def test_unknown_payload_kinds_are_refused(payload: bytes) -> None:
    """x-amz-content-sha256 is a known word or 64 hexadecimal digits."""
    with pytest.raises(S3Error) as caught:
        sigv4.parse_claim(b"", {**PUBLISHED_HEADERS, b"authorization": GOOD, b"x-amz-content-sha256": payload})
    assert caught.value.code == "InvalidArgument"


def test_the_payload_hash_is_required() -> None:
    """A header's signature says what it signed for the body."""
    headers = {**PUBLISHED_HEADERS, b"authorization": GOOD}
    del headers[b"x-amz-content-sha256"]
    with pytest.raises(S3Error) as caught:
        sigv4.parse_claim(b"", headers)
    assert caught.value.code == "InvalidRequest"


def test_a_region_can_be_demanded() -> None:
    """A verifier with a region refuses others, and says which it is."""
    path, query, headers = signed()
    claim = sigv4.parse_claim(query, headers)
    sigv4.Verifier("us-east-1").verify(claim, SECRET, "GET", path, query, headers, claim.signed_s)
    with pytest.raises(S3Error) as caught:
        sigv4.Verifier("eu-west-1").verify(claim, SECRET, "GET", path, query, headers, claim.signed_s)
    assert caught.value.code == "AuthorizationHeaderMalformed"
    assert caught.value.fields == (("Region", "eu-west-1"),)


def test_signing_keys_are_kept_within_bounds() -> None:
    """The oldest key goes when there are too many, and keys stay right."""
    verifier = sigv4.Verifier(keys_kept_max=3)
    for number in range(10):
        secret = f"secret-{number % 5}"
        assert verifier.signing_key(secret, "20130524", "r") == sigv4.signing_key(secret, "20130524", "r")
    assert len(verifier._keys) == 3
