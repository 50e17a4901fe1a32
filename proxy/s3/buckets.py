"""Buckets: list, create, describe, delete, and their listings.

A bucket is a container of the caller's account; what S3 adds is the one name space (`BucketRegistry`), the rules for new
names, and the location, which is kept as metadata and has no effect.

Creating a bucket that the caller has already succeeds and changes nothing, as in us-east-1. Deleting one drops its
multipart uploads in progress, as AWS does; see `proxy.s3.upload_store`.

Source: API_CreateBucket, API_DeleteBucket, API_HeadBucket, API_ListBuckets, API_GetBucketLocation.
"""

from __future__ import annotations

from proxy.http.message import HeaderList, Response
from proxy.model import ListedContainer, ListQuery, NoSuchAccount, NoSuchContainer
from proxy.s3.call import Call
from proxy.s3.dates import iso_date
from proxy.s3.errors import S3Error, invalid_argument, not_implemented
from proxy.s3.headers import check_acl
from proxy.s3.listing import (
    count_parameter,
    decode_token,
    encode_token,
    owner_element,
    parse_list_v1,
    parse_list_v2,
    parse_list_versions,
    render_list_v1,
    render_list_v2,
    render_list_versions,
    text_parameter,
)
from proxy.s3.names import check_new_bucket
from proxy.s3.ownership import BucketRegistry
from proxy.s3.settings import LIST_BUCKETS_MAX, XML_BODY_BYTES_MAX, S3Settings
from proxy.s3.upload_store import UploadStore
from proxy.s3.xml import CONTENT_TYPE, child_text, document, element, escape
from proxy.store import ObjectStore
from storage_node.timestamp import microseconds

LOCATION = "sys:location"
_LOCATION_CHARS_MAX = 64
_LOCATION_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_REFUSED_AT_CREATION = (
    b"x-amz-bucket-object-lock-enabled",
    b"x-amz-grant-full-control",
    b"x-amz-grant-read",
    b"x-amz-grant-read-acp",
    b"x-amz-grant-write",
    b"x-amz-grant-write-acp",
)


class Buckets:
    """The operations on buckets."""

    def __init__(
        self, store: ObjectStore, registry: BucketRegistry, uploads: UploadStore, settings: S3Settings
    ) -> None:
        self._store = store
        self._registry = registry
        self._uploads = uploads
        self._settings = settings

    async def list_buckets(self, call: Call) -> Response:
        """ListBuckets: the containers of the caller's account, paged if asked for."""
        parameters = call.parameters
        limit = count_parameter(parameters, "max-buckets", LIST_BUCKETS_MAX)
        token = parameters.get("continuation-token")
        prefix = text_parameter(parameters, "prefix")
        query = ListQuery(prefix=prefix, marker=decode_token(token) if token else b"", limit=limit)
        region = parameters.get("bucket-region")
        try:
            listing = await self._store.list_containers(call.account, query)
            items = [item for item in listing.items if isinstance(item, ListedContainer)]
            truncated = listing.truncated
        except NoSuchAccount:
            items, truncated = [], False
        if region and region != self._settings.region:
            items, truncated = [], False
        rows = "".join(
            f"<Bucket><Name>{escape(item.name.decode())}</Name>"
            f"<CreationDate>{iso_date(microseconds(item.timestamp))}</CreationDate>"
            f"<BucketRegion>{self._settings.region}</BucketRegion></Bucket>"
            for item in items
        )
        content = f"{owner_element(call.user.id, call.user.display_name)}<Buckets>{rows}</Buckets>"
        if truncated:
            content += element("ContinuationToken", encode_token(items[-1].name))
        if prefix:
            content += element("Prefix", prefix.decode())
        return Response(200, [CONTENT_TYPE], document("ListAllMyBucketsResult", content))

    async def create_bucket(self, call: Call) -> Response:
        """CreateBucket."""
        check_new_bucket(call.bucket)
        _check_creation_headers(call)
        location = await self._location_of_request(call)
        owner = await self._registry.claim(call.bucket, call.account)
        if owner != call.account:
            await self._check_own(call)
        else:
            metadata = {LOCATION: location} if location else {}
            try:
                await self._store.head_container(call.account, call.bucket)
            except (NoSuchContainer, NoSuchAccount):
                await self._store.create_container(call.account, call.bucket, metadata)
                await self._uploads.drop_all(call.account, call.bucket)
        headers: HeaderList = [(b"location", b"/" + call.bucket)]
        return Response(200, headers)

    async def _check_own(self, call: Call) -> None:
        """Another account has claimed the name: fine if the caller has a container of that name from Swift."""
        try:
            await self._store.head_container(call.account, call.bucket)
        except (NoSuchContainer, NoSuchAccount):
            raise S3Error("BucketAlreadyExists", fields=(("BucketName", call.bucket_text),)) from None

    async def _location_of_request(self, call: Call) -> str:
        """The LocationConstraint in the body; "" for this cluster's region."""
        if call.body.length == 0:
            return ""
        try:
            root = await call.document("CreateBucketConfiguration", XML_BODY_BYTES_MAX)
        except S3Error as error:
            if error.code == "MissingRequestBodyError":
                return ""
            raise
        location = child_text(root, "LocationConstraint") or ""
        if len(location) > _LOCATION_CHARS_MAX or not _LOCATION_CHARS.issuperset(location):
            raise S3Error("InvalidLocationConstraint", fields=(("LocationConstraint", location),))
        return "" if location == self._settings.region else location

    async def head_bucket(self, call: Call) -> Response:
        """HeadBucket."""
        info = await self._store.head_container(call.account, call.bucket)
        region = info.metadata.get(LOCATION) or self._settings.region
        headers: HeaderList = [(b"x-amz-bucket-region", region.encode()), (b"x-amz-access-point-alias", b"false")]
        return Response(200, headers)

    async def delete_bucket(self, call: Call) -> Response:
        """DeleteBucket. Uploads in progress do not keep it; they go with it."""
        await self._store.delete_container(call.account, call.bucket)
        await self._uploads.drop_all(call.account, call.bucket)
        await self._registry.release(call.bucket, call.account)
        return Response(204)

    async def get_location(self, call: Call) -> Response:
        """GetBucketLocation: empty for us-east-1."""
        info = await self._store.head_container(call.account, call.bucket)
        region = info.metadata.get(LOCATION) or self._settings.region
        return Response(
            200, [CONTENT_TYPE], document("LocationConstraint", "" if region == "us-east-1" else escape(region))
        )

    async def list_v1(self, call: Call) -> Response:
        """ListObjects."""
        request = parse_list_v1(call.parameters)
        listing = await self._store.list_objects(call.account, call.bucket, request.query)
        return Response(200, [CONTENT_TYPE], render_list_v1(call.bucket, request, listing, _owner(call)))

    async def list_v2(self, call: Call) -> Response:
        """ListObjectsV2."""
        request = parse_list_v2(call.parameters)
        listing = await self._store.list_objects(call.account, call.bucket, request.query)
        return Response(200, [CONTENT_TYPE], render_list_v2(call.bucket, request, listing, _owner(call)))

    async def list_versions(self, call: Call) -> Response:
        """ListObjectVersions."""
        request = parse_list_versions(call.parameters)
        listing = await self._store.list_objects(call.account, call.bucket, request.query)
        return Response(200, [CONTENT_TYPE], render_list_versions(call.bucket, request, listing, _owner(call)))


def _owner(call: Call) -> str:
    return owner_element(call.user.id, call.user.display_name)


def _check_creation_headers(call: Call) -> None:
    acl = call.headers.get(b"x-amz-acl")
    if acl is not None:
        check_acl(acl)
    for header in _REFUSED_AT_CREATION:
        value = call.headers.get(header)
        if value is not None and value.lower() != b"false":
            raise not_implemented(header.decode())
    ownership = call.headers.get(b"x-amz-object-ownership")
    if ownership is not None and ownership != b"BucketOwnerEnforced":
        if ownership not in (b"BucketOwnerPreferred", b"ObjectWriter"):
            raise invalid_argument("x-amz-object-ownership", ownership.decode("latin-1"))
        raise not_implemented("x-amz-object-ownership")
