"""Which operation a request is.

Problem: S3 has one path for ninety operations and tells them apart by method, by sub-resources in the query (`?acl`,
`?uploads`, `?uploadId=…`) and by a header (x-amz-copy-source). A sub-resource that is overlooked turns "delete the
bucket's policy" into "delete the bucket".

Idea: the sub-resources of buckets and of objects are tables of (query name -> operation) per method; the plain operation
is taken only when no sub-resource is named. Operations go by AWS's names ("GetObject"), which is what logs, errors and
documentation say. Everything that exists at AWS and not here has an entry too, so that it is answered with the right
error and never taken for something else.

Invariants:
- A query that names any sub-resource of AWS never reaches a plain operation.
- Pure: the same request gives the same operation.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.s3.errors import S3Error

_BUCKET: dict[str, dict[str, str]] = {
    "GET": {
        "accelerate": "GetBucketAccelerateConfiguration",
        "acl": "GetBucketAcl",
        "analytics": "GetBucketAnalyticsConfiguration",
        "cors": "GetBucketCors",
        "encryption": "GetBucketEncryption",
        "intelligent-tiering": "GetBucketIntelligentTieringConfiguration",
        "inventory": "GetBucketInventoryConfiguration",
        "lifecycle": "GetBucketLifecycleConfiguration",
        "location": "GetBucketLocation",
        "logging": "GetBucketLogging",
        "metrics": "GetBucketMetricsConfiguration",
        "notification": "GetBucketNotificationConfiguration",
        "object-lock": "GetObjectLockConfiguration",
        "ownershipControls": "GetBucketOwnershipControls",
        "policy": "GetBucketPolicy",
        "policyStatus": "GetBucketPolicyStatus",
        "publicAccessBlock": "GetPublicAccessBlock",
        "replication": "GetBucketReplication",
        "requestPayment": "GetBucketRequestPayment",
        "tagging": "GetBucketTagging",
        "uploads": "ListMultipartUploads",
        "versioning": "GetBucketVersioning",
        "versions": "ListObjectVersions",
        "website": "GetBucketWebsite",
    },
    "PUT": {
        "accelerate": "PutBucketAccelerateConfiguration",
        "acl": "PutBucketAcl",
        "analytics": "PutBucketAnalyticsConfiguration",
        "cors": "PutBucketCors",
        "encryption": "PutBucketEncryption",
        "intelligent-tiering": "PutBucketIntelligentTieringConfiguration",
        "inventory": "PutBucketInventoryConfiguration",
        "lifecycle": "PutBucketLifecycleConfiguration",
        "logging": "PutBucketLogging",
        "metrics": "PutBucketMetricsConfiguration",
        "notification": "PutBucketNotificationConfiguration",
        "object-lock": "PutObjectLockConfiguration",
        "ownershipControls": "PutBucketOwnershipControls",
        "policy": "PutBucketPolicy",
        "publicAccessBlock": "PutPublicAccessBlock",
        "replication": "PutBucketReplication",
        "requestPayment": "PutBucketRequestPayment",
        "tagging": "PutBucketTagging",
        "versioning": "PutBucketVersioning",
        "website": "PutBucketWebsite",
    },
    "DELETE": {
        "analytics": "DeleteBucketAnalyticsConfiguration",
        "cors": "DeleteBucketCors",
        "encryption": "DeleteBucketEncryption",
        "intelligent-tiering": "DeleteBucketIntelligentTieringConfiguration",
        "inventory": "DeleteBucketInventoryConfiguration",
        "lifecycle": "DeleteBucketLifecycle",
        "metrics": "DeleteBucketMetricsConfiguration",
        "ownershipControls": "DeleteBucketOwnershipControls",
        "policy": "DeleteBucketPolicy",
        "publicAccessBlock": "DeletePublicAccessBlock",
        "replication": "DeleteBucketReplication",
        "tagging": "DeleteBucketTagging",
        "website": "DeleteBucketWebsite",
    },
    "POST": {"delete": "DeleteObjects"},
    "HEAD": {},
}

_OBJECT: dict[str, dict[str, str]] = {
    "GET": {
        "acl": "GetObjectAcl",
        "attributes": "GetObjectAttributes",
        "legal-hold": "GetObjectLegalHold",
        "retention": "GetObjectRetention",
        "tagging": "GetObjectTagging",
        "torrent": "GetObjectTorrent",
        "uploadId": "ListParts",
    },
    "PUT": {
        "acl": "PutObjectAcl",
        "encryption": "UpdateObjectEncryption",
        "legal-hold": "PutObjectLegalHold",
        "renameObject": "RenameObject",
        "retention": "PutObjectRetention",
        "tagging": "PutObjectTagging",
        "uploadId": "UploadPart",
        "partNumber": "UploadPart",
    },
    "DELETE": {"tagging": "DeleteObjectTagging", "uploadId": "AbortMultipartUpload"},
    "POST": {
        "restore": "RestoreObject",
        "select": "SelectObjectContent",
        "uploadId": "CompleteMultipartUpload",
        "uploads": "CreateMultipartUpload",
    },
    "HEAD": {},
}

_PLAIN_BUCKET = {
    "GET": "ListObjects",
    "PUT": "CreateBucket",
    "DELETE": "DeleteBucket",
    "HEAD": "HeadBucket",
    "POST": "PostObject",
}
_PLAIN_OBJECT = {"GET": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject", "HEAD": "HeadObject"}

SUBRESOURCES = frozenset(name for table in (*_BUCKET.values(), *_OBJECT.values()) for name in table)
OPERATIONS = frozenset(
    {name for table in (*_BUCKET.values(), *_OBJECT.values()) for name in table.values()}
    | set(_PLAIN_BUCKET.values())
    | set(_PLAIN_OBJECT.values())
    | {"ListBuckets", "ListObjectsV2", "CopyObject", "UploadPartCopy"}
)
"""The names of all operations that a request can be."""

_NO_TABLE: dict[str, str] = {}


def choose_operation(method: str, bucket: bytes, key: bytes, parameters: Mapping[str, str], copies: bool) -> str:
    """The operation's name. `copies`: the request has an x-amz-copy-source header.

    Raises MethodNotAllowed for what is none.
    """
    if key:
        if parameters:
            operation = _subresource(_OBJECT.get(method, _NO_TABLE), parameters)
            if operation is not None:
                return "UploadPartCopy" if copies and operation == "UploadPart" else operation
        operation = _PLAIN_OBJECT.get(method)
        if operation is None:
            raise method_not_allowed(method, "OBJECT")
        return "CopyObject" if copies and operation == "PutObject" else operation
    if not bucket:
        if method not in ("GET", "HEAD"):
            raise method_not_allowed(method, "SERVICE")
        return "ListBuckets"
    operation = _subresource(_BUCKET.get(method, _NO_TABLE), parameters) or _PLAIN_BUCKET.get(method)
    if operation is None:
        raise method_not_allowed(method, "BUCKET")
    if operation == "ListObjects" and parameters.get("list-type") == "2":
        return "ListObjectsV2"
    return operation


def _subresource(table: Mapping[str, str], parameters: Mapping[str, str]) -> str | None:
    """The operation of the first sub-resource named; None where none is. Raises for one that this method has not."""
    for name in parameters:
        if name in SUBRESOURCES:
            operation = table.get(name)
            if operation is not None:
                return operation
            if name not in _QUALIFIERS:
                raise S3Error("MethodNotAllowed", fields=(("ResourceType", name.upper()),))
    return None


_QUALIFIERS = frozenset(("partNumber",))
"""Names that are a sub-resource with one method and a mere parameter with others (GET ?partNumber=3)."""


def method_not_allowed(method: str, resource_type: str) -> S3Error:
    """MethodNotAllowed as AWS puts it."""
    return S3Error("MethodNotAllowed", fields=(("Method", method), ("ResourceType", resource_type)))
