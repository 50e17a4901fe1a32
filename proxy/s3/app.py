"""The S3 dialect: a request in, the operation that it means, a response out.

    host and path -> bucket and key (names)   query -> operation (routing)   signature -> user (authentication)
    operation -> response                      errors of every kind -> S3 errors

An operation runs on the caller's own account. Where a bucket is not there, the registry of bucket names tells whether it
is another's (403, or for an administrator a second try in that account) or nobody's (404); requests that find their bucket
never ask it.

Invariants:
- No operation runs for a request that was not signed by a user, except the preflight of browsers (which is refused) and
  form uploads, which carry their signature in the form.
- Whatever the store raises, the answer is one that S3 clients parse, and has x-amz-request-id.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from proxy.checksums import HashPool
from proxy.http.message import (
    BodyTimeout,
    BodyTooLarge,
    HeaderList,
    MalformedBody,
    Request,
    Response,
    parse_query,
)
from proxy.identity import Identity
from proxy.model import NoSuchAccount, NoSuchContainer, NotModified, StoreError
from proxy.s3.attributes import Attributes
from proxy.s3.authentication import Authenticator
from proxy.s3.buckets import Buckets
from proxy.s3.call import Call, Operation
from proxy.s3.completion import Completion
from proxy.s3.copying import Copying
from proxy.s3.deletes import Deletes
from proxy.s3.errors import S3Error, error_response, from_store_error
from proxy.s3.headers import object_headers
from proxy.s3.multipart import Multipart
from proxy.s3.names import split_target
from proxy.s3.objects import Objects
from proxy.s3.ownership import BucketRegistry
from proxy.s3.post import Posting
from proxy.s3.routing import choose_operation
from proxy.s3.settings import S3Settings
from proxy.s3.subresources import Subresources
from proxy.s3.upload_store import UploadStore
from proxy.store import ObjectStore
from storage_node.timestamp import wall_clock_us

_NO_PARAMETERS: Mapping[str, str] = {}
SERVER = (b"server", b"Ringstead")


class S3App:
    """The S3 dialect of one process.

    `pool` hashes large bodies (one of its own, if none is given), `now_us` is the wall clock in microseconds,
    `random_bytes` gives so many random bytes.
    """

    def __init__(
        self,
        store: ObjectStore,
        identity: Identity,
        settings: S3Settings = S3Settings(),  # noqa: B008 (frozen)
        *,
        pool: HashPool | None = None,
        now_us: Callable[[], int] = wall_clock_us,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = BucketRegistry(store, now_us)
        self._authenticator = Authenticator(identity, settings, pool or HashPool(), now_us)
        self._posting = Posting(store, identity, self._registry, now_us)
        uploads = UploadStore(store, settings, now_us, random_bytes)
        buckets = Buckets(store, self._registry, uploads, settings)
        objects = Objects(store)
        copying = Copying(store, self._registry)
        multipart = Multipart(store, uploads, copying, settings)
        self._operations: dict[str, Operation] = {
            **Subresources(store).operations(),
            "AbortMultipartUpload": multipart.abort,
            "CompleteMultipartUpload": Completion(store, uploads, multipart).complete,
            "CopyObject": copying.copy_object,
            "CreateBucket": buckets.create_bucket,
            "CreateMultipartUpload": multipart.create,
            "DeleteBucket": buckets.delete_bucket,
            "DeleteObject": objects.delete_object,
            "DeleteObjects": Deletes(store, settings).delete_objects,
            "GetBucketLocation": buckets.get_location,
            "GetObject": objects.get_object,
            "GetObjectAttributes": Attributes(store, settings).get_attributes,
            "HeadBucket": buckets.head_bucket,
            "HeadObject": objects.head_object,
            "ListBuckets": buckets.list_buckets,
            "ListMultipartUploads": multipart.list_uploads,
            "ListObjectVersions": buckets.list_versions,
            "ListObjects": buckets.list_v1,
            "ListObjectsV2": buckets.list_v2,
            "ListParts": multipart.list_parts,
            "PutObject": objects.put_object,
            "UploadPart": multipart.upload_part,
            "UploadPartCopy": multipart.upload_part_copy,
        }
        self._id_2 = (b"x-amz-id-2", settings.host_id.encode())

    async def handle(self, request: Request) -> Response:
        """Answer one request. Raises only `ClientDisconnected`, `trio.Cancelled`, and what is our own defect."""
        bucket = key = b""
        try:
            bucket, key = split_target(request.headers.get(b"host"), request.path, self._settings.host_suffixes)
            response = await self._respond(request, bucket, key)
        except S3Error as error:
            response = self._error(request, error)
        except NotModified as unmodified:
            response = Response(304, object_headers(unmodified.info, False))
        except StoreError as error:
            response = self._error(request, from_store_error(error, bucket.decode(), key.decode()))
        except MalformedBody as error:
            response = self._error(request, S3Error("IncompleteBody", str(error), close=True))
        except BodyTooLarge:
            response = self._error(request, S3Error("EntityTooLarge", close=True))
        except BodyTimeout:
            response = self._error(request, S3Error("RequestTimeout", close=True))
        headers: HeaderList = response.headers
        headers.append((b"x-amz-request-id", request.transaction_id.encode()))
        headers.append(self._id_2)
        headers.append(SERVER)
        return response

    def _error(self, request: Request, error: S3Error) -> Response:
        resource = request.path.decode("latin-1")
        return error_response(error, request.method, resource, request.transaction_id, self._settings.host_id)

    async def _respond(self, request: Request, bucket: bytes, key: bytes) -> Response:
        headers = request.headers
        method = request.method
        if method == "OPTIONS":
            raise _preflight_error(headers)
        parameters = parse_query(request.query) if request.query else _NO_PARAMETERS
        operation = choose_operation(method, bucket, key, parameters, b"x-amz-copy-source" in headers)
        if operation == "PostObject":
            return await self._posting.post_object(request, bucket)
        run = self._operations.get(operation)
        if run is None:
            raise S3Error("NotImplemented", f"{operation} is not implemented.")
        call = await self._authenticator.authenticate(request, operation, bucket, key, parameters)
        expected_owner = headers.get(b"x-amz-expected-bucket-owner")
        if expected_owner is not None and expected_owner.decode("latin-1") not in _names_of(call):
            raise S3Error("AccessDenied")
        try:
            await self._store.ensure_account(call.account)
            return await run(call)
        except (NoSuchContainer, NoSuchAccount):
            if operation in ("CreateBucket", "ListBuckets"):
                raise
            call.account = await self._registry.locate(bucket, call.user)
            return await run(call)


def _names_of(call: Call) -> tuple[str, str, str]:
    """What an owner may be called in x-amz-expected-bucket-owner."""
    return call.user.id, call.user.project, call.user.account


def _preflight_error(headers: Mapping[bytes, bytes]) -> S3Error:
    """The answer to a CORS preflight of a bucket without CORS rules, as every bucket is here."""
    if not headers.get(b"origin"):
        return S3Error("BadRequest", "Insufficient information. Origin request header needed.")
    if not headers.get(b"access-control-request-method"):
        return S3Error("BadRequest", "Invalid Access-Control-Request-Method: null")
    return S3Error("AccessForbidden")
