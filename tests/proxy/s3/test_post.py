"""PostObject: uploads by form, on a real store."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from botocore.auth import S3SigV4PostAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from proxy.http.message import Request
from proxy.s3.bodies import BytesBody
from tests.proxy.s3.client import Answer, S3Client, S3World

BOUNDARY = "xYzZY"
LATER = "2099-01-01T00:00:00Z"


async def post(client: S3Client, fields: Mapping[str, str], file: bytes, bucket: str = "bucket") -> Answer:
    """Send a form."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'.encode()
    body = b"".join(parts) + head + file + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {
        b"host": b"localhost",
        b"content-type": f"multipart/form-data; boundary={BOUNDARY}".encode(),
        b"content-length": b"%d" % len(body),
    }
    return await client.send(Request("POST", f"/{bucket}".encode(), headers, BytesBody(body), "test", "tx"))


def policy(*conditions: Any, expiration: str = LATER) -> dict[str, Any]:
    """A policy for the bucket."""
    return {"expiration": expiration, "conditions": [{"bucket": "bucket"}, ["starts-with", "$key", ""], *conditions]}


def sign_v2(client: S3Client, document: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a version 2 signature."""
    encoded = base64.b64encode(json.dumps(document).encode())
    secret = client.credentials.secret_key.encode()
    signature = base64.b64encode(hmac.digest(secret, encoded, "sha1")).decode()
    return {"AWSAccessKeyId": client.credentials.access_key, "policy": encoded.decode(), "signature": signature}


def sign_v4(client: S3Client, document: dict[str, Any]) -> dict[str, str]:
    """The fields of a version 4 signature, as botocore makes them."""
    request = AWSRequest("POST", "http://localhost/bucket")
    request.context["s3-presign-post-fields"] = {}
    request.context["s3-presign-post-policy"] = document
    credentials = Credentials(client.credentials.access_key, client.credentials.secret_key)
    S3SigV4PostAuth(credentials, "s3", "us-east-1").add_auth(request)
    fields: dict[str, str] = request.context["s3-presign-post-fields"]
    return fields


async def test_forms_are_stored(world: S3World) -> None:
    """Key with the file's name in it, headers, metadata; nothing, a document or a redirect for an answer."""
    main = world.main
    extra = [
        ["starts-with", "$x-amz-meta-a", ""],
        {"content-type": "text/x"},
        ["starts-with", "$success_action_status", ""],
    ]
    for sign in (sign_v2, sign_v4):
        fields = {"key": "dir/${filename}", **sign(main, policy(*extra)), "x-amz-meta-a": "1", "Content-Type": "text/x"}
        made = await post(main, {**fields, "success_action_status": "201"}, b"data")
        assert (made.status, made.xml.findtext("Key")) == (201, "dir/a.txt")
        assert made.xml.findtext("ETag") == f'"{hashlib.md5(b"data").hexdigest()}"'
        got = await main("GET", "/bucket/dir/a.txt")
        assert (got.body, got.headers["x-amz-meta-a"], got.headers["content-type"]) == (b"data", "1", "text/x")
        await main("DELETE", "/bucket/dir/a.txt")
        assert (await post(main, {**fields, "success_action_status": "404"}, b"data")).status == 204
    named = {
        "key": "${filename}",
        **sign_v2(main, {**policy(), "conditions": [{"bucket": "bucket"}, {"key": "a.txt"}]}),
    }
    assert (await post(main, named, b"data")).status == 204
    redirect = {"success_action_redirect": "http://example.org/done?x=1"}
    fields = {"key": "k", **redirect, **sign_v2(main, policy(["starts-with", "$success_action_redirect", ""]))}
    answer = await post(main, fields, b"data")
    etag = hashlib.md5(b"data").hexdigest()
    assert answer.status == 303
    assert answer.headers["location"] == f"http://example.org/done?x=1&bucket=bucket&key=k&etag=%22{etag}%22"


async def test_tags_come_as_a_document(world: S3World) -> None:
    """The form's tagging field is XML, unlike the header."""
    main = world.main
    signed = {"key": "k", **sign_v2(main, policy(["starts-with", "$tagging", ""]))}
    tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    assert (await post(main, {**signed, "tagging": tags}, b"data")).status == 204
    assert (await main("GET", "/bucket/k", query="tagging")).texts("TagSet/Tag/Key") == ["a"]
    assert (await post(main, {**signed, "tagging": "a=1"}, b"data")).code == "MalformedXML"


async def test_forms_that_nobody_signed_store_nothing(world: S3World) -> None:
    """No signature, a wrong one, another's key, an expired policy, a policy for something else."""
    main = world.main
    signed = {"key": "k", **sign_v2(main, policy())}
    for fields, status, code in (
        ({"key": "k"}, 403, "AccessDenied"),
        ({name: value for name, value in signed.items() if name != "signature"}, 400, "InvalidArgument"),
        ({name: value for name, value in signed.items() if name != "key"}, 400, "InvalidArgument"),
        ({**signed, "signature": signed["signature"][::-1]}, 403, "SignatureDoesNotMatch"),
        ({**signed, "AWSAccessKeyId": "AKNOBODY"}, 403, "InvalidAccessKeyId"),
        ({"key": "k", **sign_v2(main, policy(expiration="2001-01-01T00:00:00Z"))}, 403, "AccessDenied"),
        ({**signed, "x-amz-meta-more": "1"}, 403, "AccessDenied"),
        ({"key": "k", **sign_v2(main, {"conditions": []})}, 400, "InvalidPolicyDocument"),
        ({**signed, "key": "k" * 1025}, 400, "KeyTooLongError"),
    ):
        answer = await post(main, fields, b"data")
        assert (answer.status, answer.code) == (status, code)
    other = await post(world.other, {"key": "k", **sign_v2(world.other, policy())}, b"data")
    assert (other.status, other.code) == (403, "AccessDenied")
    assert (await main("GET", "/bucket")).texts("Contents/Key") == []


async def test_the_policy_bounds_the_file(world: S3World) -> None:
    """content-length-range, by the bytes that came; a checksum that is wrong; both store nothing."""
    main = world.main
    fields = {"key": "k", **sign_v2(main, policy(["content-length-range", 2, 5]))}
    assert (await post(main, fields, b"x")).code == "EntityTooSmall"
    assert (await post(main, fields, b"123456")).code == "EntityTooLarge"
    bad = await post(main, {**fields, "x-amz-checksum-sha256": "sailorjerry"}, b"1234")
    assert (bad.status, bad.code) == (400, "BadDigest")
    assert (await main("GET", "/bucket/k")).status == 404
    sha256 = base64.b64encode(hashlib.sha256(b"1234").digest()).decode()
    good = await post(main, {**fields, "x-amz-checksum-sha256": sha256}, b"1234")
    assert (good.status, good.headers["x-amz-checksum-sha256"]) == (204, sha256)


async def test_what_is_no_form_is_refused(world: S3World) -> None:
    """A POST to a bucket is a form or DeleteObjects."""
    headers = {b"host": b"localhost", b"content-type": b"text/plain"}
    answer = await world.main.send(Request("POST", b"/bucket", headers, BytesBody(b"x"), "test", "tx"))
    assert (answer.status, answer.code) == (400, "MalformedPOSTRequest")
