"""The benchmark's requests: rendered right, signed as botocore signs them."""

from __future__ import annotations

import datetime

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bench.dialects import UNSIGNED, S3Dialect, SwiftDialect
from bench.systems.base import S3Access, SwiftAccess

NOW = datetime.datetime(2026, 11, 26, 12, 0, 0, tzinfo=datetime.UTC)
ACCESS = S3Access("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


def signature_by_botocore(method: str, path: str) -> str:
    """The Authorization header that botocore makes of the same request at the same moment."""
    request = AWSRequest(method, f"http://127.0.0.1:8080{path}", headers={"X-Amz-Content-SHA256": UNSIGNED})
    request.context["timestamp"] = NOW.strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    request.headers["host"] = "127.0.0.1:8080"
    signer = S3SigV4Auth(Credentials(ACCESS.access_key, ACCESS.secret_key), "s3", ACCESS.region)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    return str(signature)


def test_s3_heads_carry_the_signature_that_botocore_makes():
    """GET, PUT and a listing are signed as the reference client signs them."""
    dialect = S3Dialect(ACCESS, "127.0.0.1:8080", NOW)
    for method, name, query in (
        ("GET", "o00000001", ""),
        ("PUT", "a name", ""),
        ("GET", "", dialect.page_query("n00000100", 1000)),
    ):
        head = dialect.head(method, "read", name, query, 4096).decode()
        target = head.split(" ", 2)[1]
        assert f"Signature={signature_by_botocore(method, target)}\r\n" in head


def test_a_swift_head_is_a_whole_request():
    """The token, the path under the account, the length of what follows, and an empty line."""
    dialect = SwiftDialect(SwiftAccess("tk", "/v1/AUTH_a"))
    assert dialect.head("PUT", "c", "o 1", body_bytes=7) == (
        b"PUT /v1/AUTH_a/c/o%201 HTTP/1.1\r\nHost: bench\r\nX-Auth-Token: tk\r\n"
        b"Content-Length: 7\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
