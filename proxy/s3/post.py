"""PostObject: an upload by a browser's form, allowed by a policy that a user signed beforehand.

The form says bucket-relative key, headers, what to answer with, the policy and its signature; then comes the file. What
the form may say is decided in `proxy.s3.post_policy`; the file streams through `proxy.s3.form`. The signature is an HMAC
over the policy as it was sent: version 4 (x-amz-signature) or, as old pages have it, version 2 (signature).

Source: API "POST Object" of the Amazon S3 API Reference; "Authenticating HTTP POST requests".

Invariants: without a valid signature over a policy that allows this very form nothing is read of the file; a file outside
the policy's length leaves nothing behind.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit, urlunsplit

from proxy.checksums import S3_ALGORITHMS
from proxy.http.message import HeaderList, Request, Response
from proxy.identity import Identity
from proxy.model import NoSuchAccount, NoSuchContainer, ObjectInfo, PutObjectRequest
from proxy.s3.digests import DigestingBody
from proxy.s3.errors import S3Error, invalid_argument
from proxy.s3.form import FormReader, boundary_of
from proxy.s3.headers import TAGGING, object_metadata
from proxy.s3.names import check_key
from proxy.s3.objects import DEGRADED, checksum_headers
from proxy.s3.ownership import BucketRegistry
from proxy.s3.post_policy import PostPolicy, check_policy, parse_policy
from proxy.s3.sigv4 import signing_key
from proxy.s3.tags import pack_tags, parse_tag_document
from proxy.s3.xml import CONTENT_TYPE, DECLARATION, MalformedDocument, element
from proxy.store import ObjectStore
from proxy.users import UnknownAccessKey, User

_STATUSES = {"200": 200, "201": 201}
_FILE_NAME = "${filename}"


class Posting:
    """The operation PostObject."""

    def __init__(
        self, store: ObjectStore, identity: Identity, registry: BucketRegistry, now_us: Callable[[], int]
    ) -> None:
        self._store = store
        self._identity = identity
        self._registry = registry
        self._now_us = now_us

    async def post_object(self, request: Request, bucket: bytes) -> Response:
        """PostObject."""
        reader = FormReader(request.body, boundary_of(request.headers.get(b"content-type", b"")))
        fields = await reader.read_fields()
        if "key" in fields:
            fields["key"] = fields["key"].replace(_FILE_NAME, reader.file_name)
        user = await self._signer(fields)
        policy = parse_policy(fields["policy"])
        check_policy(policy, fields, bucket.decode(), self._now_us() / 1_000_000)
        key = check_key(_required(fields, "key").encode())
        content_type, metadata = object_metadata(_headers(fields))
        metadata |= _tags(fields)
        algorithm, announced = _announced_checksum(fields)
        body = FileBody(reader, policy)
        digesting = DigestingBody(body, algorithm) if algorithm else None
        if digesting is not None:
            body.at_end = lambda: _check_checksum(digesting, algorithm, announced)
        put = PutObjectRequest(
            content_type, metadata, late_metadata=digesting.checksum_metadata if digesting is not None else None
        )
        try:
            await self._store.ensure_account(user.account)
            info = await self._store.put_object(user.account, bucket, key, digesting or body, put)
        except (NoSuchContainer, NoSuchAccount):
            account = await self._registry.locate(bucket, user)
            info = await self._store.put_object(account, bucket, key, digesting or body, put)
        return _answer(request, fields, bucket, key, info)

    async def _signer(self, fields: Mapping[str, str]) -> User:
        """Who signed the policy. Raises AccessDenied, InvalidAccessKeyId, SignatureDoesNotMatch, InvalidArgument."""
        version_4 = "x-amz-algorithm" in fields or "x-amz-signature" in fields
        if not any(name in fields for name in ("policy", "awsaccesskeyid", "x-amz-credential")):
            raise S3Error("AccessDenied", close=True)
        encoded = _required(fields, "policy")
        access_key = (
            _required(fields, "x-amz-credential").split("/")[0] if version_4 else _required(fields, "awsaccesskeyid")
        )
        signature = _required(fields, "x-amz-signature" if version_4 else "signature")
        try:
            user, secret = await self._identity.by_access_key(access_key)
        except UnknownAccessKey:
            raise S3Error("InvalidAccessKeyId", fields=(("AWSAccessKeyId", access_key),)) from None
        if version_4:
            expected = hmac.digest(_key_of_credential(fields, secret), encoded.encode(), "sha256").hex()
        else:
            expected = base64.b64encode(hmac.digest(secret.encode(), encoded.encode(), "sha1")).decode()
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise S3Error("SignatureDoesNotMatch", fields=(("AWSAccessKeyId", access_key),))
        return user


class FileBody:
    """The file of a form as the body of a write (a `BodySource`), of a length within the policy's bounds."""

    def __init__(self, reader: FormReader, policy: PostPolicy) -> None:
        self._reader = reader
        self._policy = policy
        self._size_bytes = 0
        self.at_end: Callable[[], None] = _nothing
        """Called at the end of the file, to check what is known only then."""

    @property
    def length(self) -> int | None:
        """Unknown."""
        return None

    async def read(self) -> bytes:
        """The next piece; b"" at the end. Raises EntityTooLarge, EntityTooSmall."""
        piece = await self._reader.read()
        self._size_bytes += len(piece)
        proposed = ("ProposedSize", str(self._size_bytes))
        if self._size_bytes > self._policy.length_max:
            fields = (proposed, ("MaxSizeAllowed", str(self._policy.length_max)))
            raise S3Error("EntityTooLarge", fields=fields, close=True)
        if not piece:
            if self._size_bytes < self._policy.length_min:
                raise S3Error("EntityTooSmall", fields=(proposed, ("MinSizeAllowed", str(self._policy.length_min))))
            self.at_end()
        return piece


def _nothing() -> None:
    """Nothing to check."""


def _required(fields: Mapping[str, str], name: str) -> str:
    """A field that must be there and not be empty. Raises InvalidArgument."""
    value = fields.get(name)
    if not value:
        message = f"Bucket POST must contain a field named '{name}', before the file."
        raise invalid_argument(name, "", message)
    return value


def _headers(fields: Mapping[str, str]) -> dict[bytes, bytes]:
    """The fields that mean what headers of a PUT mean."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields.items():
        if not (name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()):
            continue
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise invalid_argument(name, value, "A field that becomes a header must not hold control characters.")
        if name != "tagging":
            headers[b"x-amz-acl" if name == "acl" else name.encode()] = value.encode()
    return headers


def _tags(fields: Mapping[str, str]) -> dict[str, str]:
    """The tags in the form, which has them as a document, as metadata."""
    text = fields.get("tagging")
    if not text:
        return {}
    try:
        return {TAGGING: pack_tags(parse_tag_document(text.encode()))}
    except MalformedDocument as error:
        raise S3Error("MalformedXML") from error


def _announced_checksum(fields: Mapping[str, str]) -> tuple[str, str]:
    """Algorithm and value of the checksum among the fields; "" for none."""
    for algorithm in S3_ALGORITHMS:
        value = fields.get(f"x-amz-checksum-{algorithm}")
        if value is not None:
            return algorithm, value
    return "", ""


def _check_checksum(body: DigestingBody, algorithm: str, announced: str) -> None:
    if body.checksum_metadata()[f"checksum:{algorithm}"] != announced:
        raise S3Error("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.")


def _key_of_credential(fields: Mapping[str, str], secret: str) -> bytes:
    """The version 4 signing key that the form's credential names."""
    parts = fields.get("x-amz-credential", "").split("/")
    if fields.get("x-amz-algorithm") != "AWS4-HMAC-SHA256" or len(parts) != 5 or parts[3:] != ["s3", "aws4_request"]:
        raise invalid_argument("X-Amz-Credential", fields.get("x-amz-credential", ""))
    return signing_key(secret, parts[1], parts[2])


def _answer(request: Request, fields: Mapping[str, str], bucket: bytes, key: bytes, info: ObjectInfo) -> Response:
    """A redirect, a document or nothing, as the form asks."""
    etag = f'"{info.etag}"'
    host = request.headers.get(b"host", b"").decode("latin-1")
    location = f"{request.scheme}://{host}{request.path.decode('latin-1').rstrip('/')}/{key.decode()}"
    headers: HeaderList = [(b"etag", etag.encode()), *checksum_headers(info.metadata)]
    if info.consistency.degraded:
        headers.append(DEGRADED)
    redirect = fields.get("success_action_redirect") or fields.get("redirect")
    if redirect:
        parts = urlsplit(redirect)
        if parts.scheme in ("http", "https") and redirect.isprintable():
            added = urlencode({"bucket": bucket.decode(), "key": key.decode(), "etag": etag})
            query = f"{parts.query}&{added}" if parts.query else added
            target = urlunsplit((parts.scheme, parts.netloc, parts.path, query, parts.fragment))
            headers.append((b"location", target.encode()))
            return Response(303, headers)
    status = _STATUSES.get(fields.get("success_action_status", ""), 204)
    if status != 201:
        return Response(status, headers)
    content = (
        f"{element('Location', location)}{element('Bucket', bucket.decode())}{element('Key', key.decode())}"
        f"{element('ETag', etag)}"
    )
    headers.append(CONTENT_TYPE)
    return Response(201, headers, f"{DECLARATION}<PostResponse>{content}</PostResponse>".encode())
