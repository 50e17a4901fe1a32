"""What a bucket or an object has at AWS and not here: answered as AWS answers where nobody has set it.

Problem: tools ask for a bucket's versioning, policy, encryption or CORS before they do anything, and take anything but the
documented "there is none" for a failure. Setting one of them must fail loudly: a client that believes its bucket to be
versioned or encrypted will delete what it should not.

Idea: three tables, of reads that give an empty document, of reads that give "no such configuration", and of everything
that is refused. Deletes of what cannot exist succeed, as deletes do. All of them check that the bucket is there first.

ACLs: every object and bucket is its owner's alone; that ACL is shown, may be "set", and no other may. Tags of objects and
buckets are real.
"""

from __future__ import annotations

from proxy.http.message import Response
from proxy.s3.call import Call, Operation
from proxy.s3.errors import S3Error, not_implemented
from proxy.s3.headers import TAGGING, check_acl
from proxy.s3.listing import owner_element
from proxy.s3.settings import XML_BODY_BYTES_MAX
from proxy.s3.tags import Tags, pack_tags, parse_tag_document, tag_set, unpack_tags
from proxy.s3.xml import (
    CONTENT_TYPE,
    DocumentTooLong,
    MalformedDocument,
    child_text,
    children,
    document,
    element,
    local_name,
    read_body,
)
from proxy.store import ObjectStore

_EMPTY: dict[str, tuple[str, str]] = {
    "GetBucketAccelerateConfiguration": ("AccelerateConfiguration", ""),
    "GetBucketLogging": ("BucketLoggingStatus", ""),
    "GetBucketNotificationConfiguration": ("NotificationConfiguration", ""),
    "GetBucketRequestPayment": ("RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>"),
    "GetBucketVersioning": ("VersioningConfiguration", ""),
}
"""Root element and content of what an untouched bucket says."""

_LISTS: dict[str, str] = {
    "GetBucketAnalyticsConfiguration": "ListBucketAnalyticsConfigurationResult",
    "GetBucketIntelligentTieringConfiguration": "ListBucketIntelligentTieringConfigurationsOutput",
    "GetBucketInventoryConfiguration": "ListInventoryConfigurationsResult",
    "GetBucketMetricsConfiguration": "ListMetricsConfigurationsResult",
}
"""With an id, one configuration (there is none); without, a list (it is empty)."""

_ABSENT: dict[str, str] = {
    "GetBucketCors": "NoSuchCORSConfiguration",
    "GetBucketEncryption": "ServerSideEncryptionConfigurationNotFoundError",
    "GetBucketLifecycleConfiguration": "NoSuchLifecycleConfiguration",
    "GetBucketOwnershipControls": "OwnershipControlsNotFoundError",
    "GetBucketPolicy": "NoSuchBucketPolicy",
    "GetBucketPolicyStatus": "NoSuchBucketPolicy",
    "GetBucketReplication": "ReplicationConfigurationNotFoundError",
    "GetBucketWebsite": "NoSuchWebsiteConfiguration",
    "GetObjectLockConfiguration": "ObjectLockConfigurationNotFoundError",
    "GetPublicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
}
"""The error that says that nobody has set it."""

_GONE_ANYWAY = (
    "DeleteBucketAnalyticsConfiguration",
    "DeleteBucketCors",
    "DeleteBucketEncryption",
    "DeleteBucketIntelligentTieringConfiguration",
    "DeleteBucketInventoryConfiguration",
    "DeleteBucketLifecycle",
    "DeleteBucketMetricsConfiguration",
    "DeleteBucketOwnershipControls",
    "DeleteBucketPolicy",
    "DeleteBucketReplication",
    "DeleteBucketWebsite",
    "DeletePublicAccessBlock",
)

_REFUSED = (
    "PutBucketAccelerateConfiguration",
    "PutBucketAnalyticsConfiguration",
    "PutBucketCors",
    "PutBucketEncryption",
    "PutBucketIntelligentTieringConfiguration",
    "PutBucketInventoryConfiguration",
    "PutBucketLifecycleConfiguration",
    "PutBucketLogging",
    "PutBucketMetricsConfiguration",
    "PutBucketNotificationConfiguration",
    "PutBucketOwnershipControls",
    "PutBucketPolicy",
    "PutBucketReplication",
    "PutBucketRequestPayment",
    "PutBucketVersioning",
    "PutBucketWebsite",
    "PutObjectLegalHold",
    "PutObjectLockConfiguration",
    "PutObjectRetention",
    "PutPublicAccessBlock",
    "RenameObject",
    "RestoreObject",
    "SelectObjectContent",
    "UpdateObjectEncryption",
)


class Subresources:
    """The operations on what buckets and objects do not have, and on ACLs and tags."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def operations(self) -> dict[str, Operation]:
        """All of them, by name."""
        table: dict[str, Operation] = {
            "DeleteBucketTagging": self.delete_bucket_tagging,
            "DeleteObjectTagging": self.delete_object_tagging,
            "GetBucketAcl": self.get_bucket_acl,
            "GetBucketTagging": self.get_bucket_tagging,
            "GetObjectAcl": self.get_object_acl,
            "GetObjectLegalHold": self.get_object_lock,
            "GetObjectRetention": self.get_object_lock,
            "GetObjectTagging": self.get_object_tagging,
            "GetObjectTorrent": self.get_torrent,
            "PutBucketAcl": self.put_bucket_acl,
            "PutBucketTagging": self.put_bucket_tagging,
            "PutObjectAcl": self.put_object_acl,
            "PutObjectTagging": self.put_object_tagging,
        }
        table |= dict.fromkeys(_EMPTY, self.get_empty)
        table |= dict.fromkeys(_LISTS, self.get_list)
        table |= dict.fromkeys(_ABSENT, self.get_absent)
        table |= dict.fromkeys(_GONE_ANYWAY, self.delete_absent)
        table |= dict.fromkeys(_REFUSED, self.refuse)
        return table

    async def _bucket(self, call: Call) -> None:
        await self._store.head_container(call.account, call.bucket)

    async def get_empty(self, call: Call) -> Response:
        """A configuration that has a neutral state."""
        await self._bucket(call)
        return _document(*_EMPTY[call.operation])

    async def get_list(self, call: Call) -> Response:
        """A configuration of which there may be several, and are none."""
        await self._bucket(call)
        if "id" in call.parameters:
            raise S3Error("NoSuchConfiguration")
        return _document(_LISTS[call.operation], "<IsTruncated>false</IsTruncated>")

    async def get_absent(self, call: Call) -> Response:
        """A configuration that nobody has set."""
        await self._bucket(call)
        raise S3Error(_ABSENT[call.operation], fields=(("BucketName", call.bucket_text),))

    async def delete_absent(self, call: Call) -> Response:
        """Removes what is not there."""
        await self._bucket(call)
        return Response(204)

    async def refuse(self, call: Call) -> Response:
        """What this store does not do."""
        await self._bucket(call)
        raise S3Error("NotImplemented", f"{call.operation} is not implemented.")

    async def get_object_lock(self, call: Call) -> Response:
        """Retention or legal hold of an object."""
        await self._store.head_object(call.account, call.bucket, call.key)
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")

    async def get_torrent(self, call: Call) -> Response:
        """No object has a torrent."""
        await self._store.head_object(call.account, call.bucket, call.key)
        raise S3Error("NoSuchKey", "The object has no torrent.", (("Key", call.key_text),))

    # ----------------------------------------------------------------------------------------------------------- ACLs

    async def get_bucket_acl(self, call: Call) -> Response:
        """The owner has full control."""
        await self._bucket(call)
        return _acl(call)

    async def get_object_acl(self, call: Call) -> Response:
        """The owner has full control."""
        await self._store.head_object(call.account, call.bucket, call.key)
        return _acl(call)

    async def put_bucket_acl(self, call: Call) -> Response:
        """Accepts the ACL that there is."""
        await self._bucket(call)
        await _check_private(call)
        return Response(200)

    async def put_object_acl(self, call: Call) -> Response:
        """Accepts the ACL that there is."""
        await self._store.head_object(call.account, call.bucket, call.key)
        await _check_private(call)
        return Response(200)

    # ----------------------------------------------------------------------------------------------------------- tags

    async def get_bucket_tagging(self, call: Call) -> Response:
        """GetBucketTagging."""
        info = await self._store.head_container(call.account, call.bucket)
        stored = info.metadata.get(TAGGING)
        if not stored:
            raise S3Error("NoSuchTagSet", fields=(("BucketName", call.bucket_text),))
        return _document("Tagging", tag_set(unpack_tags(stored)))

    async def put_bucket_tagging(self, call: Call) -> Response:
        """PutBucketTagging."""
        tags = await _tags_of_request(call)
        await self._store.update_container(call.account, call.bucket, {TAGGING: pack_tags(tags)})
        return Response(204)

    async def delete_bucket_tagging(self, call: Call) -> Response:
        """DeleteBucketTagging."""
        await self._store.update_container(call.account, call.bucket, {TAGGING: ""})
        return Response(204)

    async def get_object_tagging(self, call: Call) -> Response:
        """GetObjectTagging."""
        info = await self._store.head_object(call.account, call.bucket, call.key)
        return _document("Tagging", tag_set(unpack_tags(info.metadata.get(TAGGING, ""))))

    async def put_object_tagging(self, call: Call) -> Response:
        """PutObjectTagging."""
        await self._set_object_tags(call, await _tags_of_request(call))
        return Response(200)

    async def delete_object_tagging(self, call: Call) -> Response:
        """DeleteObjectTagging."""
        await self._set_object_tags(call, ())
        return Response(204)

    async def _set_object_tags(self, call: Call, tags: Tags) -> None:
        info = await self._store.head_object(call.account, call.bucket, call.key)
        metadata = {name: value for name, value in info.metadata.items() if name != TAGGING}
        if tags:
            metadata[TAGGING] = pack_tags(tags)
        await self._store.update_object(call.account, call.bucket, call.key, metadata, None)


def _document(root: str, content: str) -> Response:
    return Response(200, [CONTENT_TYPE], document(root, content))


def _acl(call: Call) -> Response:
    owner = owner_element(call.user.id, call.user.display_name)
    grantee = (
        f'<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">'
        f"<ID>{call.user.id}</ID>{element('DisplayName', call.user.display_name)}</Grantee>"
    )
    grants = f"<AccessControlList><Grant>{grantee}<Permission>FULL_CONTROL</Permission></Grant></AccessControlList>"
    return _document("AccessControlPolicy", owner + grants)


async def _check_private(call: Call) -> None:
    """Accept an ACL that gives the owner full control and nobody anything else; raise for every other."""
    for header in call.headers:
        if header.startswith(b"x-amz-grant-"):
            raise not_implemented(header.decode())
    canned = call.headers.get(b"x-amz-acl")
    if canned is not None:
        check_acl(canned)
        return
    root = await call.document("AccessControlPolicy", XML_BODY_BYTES_MAX)
    lists = list(children(root, "AccessControlList"))
    if len(lists) != 1:
        raise S3Error("MalformedACLError")
    for grant in children(lists[0], "Grant"):
        grantee = next((node for node in grant if local_name(node) == "Grantee"), None)
        permission = child_text(grant, "Permission")
        if grantee is None or permission is None:
            raise S3Error("MalformedACLError")
        if child_text(grantee, "ID") != call.user.id or permission != "FULL_CONTROL":
            raise not_implemented("x-amz-acl", "Grants to others than the owner are not implemented.")


async def _tags_of_request(call: Call) -> Tags:
    try:
        return parse_tag_document(await read_body(call.body, XML_BODY_BYTES_MAX))
    except DocumentTooLong:
        raise S3Error("MaxMessageLengthExceeded", close=True) from None
    except MalformedDocument as error:
        raise S3Error("MalformedXML") from error
