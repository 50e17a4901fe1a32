"""Who sent a request, and its body as one that will be verified.

Version 4 signatures (header or presigned query) and version 2 ones (`sigv4`, `sigv2`) prove a user by access key; what was
announced of the body (`payload`) is checked while an operation reads it. A request without a signature is nobody's, and
nobody may do anything here.

Invariant: `authenticate` returns only for a request that its user signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.checksums import HashPool
from proxy.http.message import Request
from proxy.identity import Identity
from proxy.s3 import sigv2, sigv4
from proxy.s3.bodies import EMPTY_BODY
from proxy.s3.call import Call
from proxy.s3.errors import S3Error
from proxy.s3.names import host_bucket
from proxy.s3.payload import Payload, open_payload
from proxy.s3.settings import S3Settings
from proxy.users import UnknownAccessKey, User

_BODILESS = frozenset(("GET", "HEAD", "DELETE"))
_MD5_CHECKED_BY_STORE = frozenset(("PutObject", "UploadPart"))
"""Their bodies' MD5 is computed anyway, as the etag."""
_ABOUT_THE_OBJECT = "CompleteMultipartUpload"
"""Its checksum headers are about the object that comes into being, not about the body."""


class Authenticator:
    """Finds out whose a request is. `now_us` is the wall clock in microseconds; `pool` hashes large bodies."""

    def __init__(self, identity: Identity, settings: S3Settings, pool: HashPool, now_us: Callable[[], int]) -> None:
        self._identity = identity
        self._suffixes = settings.host_suffixes
        self._pool = pool
        self._now_us = now_us
        self._verifier = sigv4.Verifier()

    async def authenticate(
        self, request: Request, operation: str, bucket: bytes, key: bytes, parameters: Mapping[str, str]
    ) -> Call:
        """The request as a `Call`. Raises S3Error unless a user signed it."""
        headers = request.headers
        query = request.query
        if sigv4.has_claim(query, headers):
            claim = sigv4.parse_claim(query, headers)
            user, secret = await self._user(claim.access_key)
            signing = self._verifier.verify(
                claim, secret, request.method, request.path, query, headers, self._now_us() / 1_000_000
            )
            if request.method in _BODILESS:
                return Call(request, user, operation, bucket, key, parameters, EMPTY_BODY)
            payload = self._payload(request, operation, claim.payload, signing, claim.access_key)
        elif sigv2.has_claim(query, headers):
            old_claim = sigv2.parse_claim(query, headers)
            user, secret = await self._user(old_claim.access_key)
            sigv2.verify(
                old_claim,
                secret,
                request.method,
                request.path,
                query,
                headers,
                self._now_us() / 1_000_000,
                host_bucket(headers.get(b"host"), self._suffixes),
            )
            payload = self._payload(request, operation, sigv4.UNSIGNED, None, old_claim.access_key)
        else:
            raise S3Error("AccessDenied")
        return Call(request, user, operation, bucket, key, parameters, payload)

    async def _user(self, access_key: str) -> tuple[User, str]:
        try:
            return await self._identity.by_access_key(access_key)
        except UnknownAccessKey:
            raise S3Error("InvalidAccessKeyId", fields=(("AWSAccessKeyId", access_key),)) from None

    def _payload(
        self, request: Request, operation: str, kind: str, signing: sigv4.ChunkSigning | None, access_key: str
    ) -> Payload:
        headers = request.headers
        if operation == _ABOUT_THE_OBJECT:
            headers = {name: value for name, value in headers.items() if not name.startswith(b"x-amz-checksum-")}
        check_md5 = operation not in _MD5_CHECKED_BY_STORE
        return open_payload(request.body, headers, kind, signing, access_key, self._pool, check_md5=check_md5)
