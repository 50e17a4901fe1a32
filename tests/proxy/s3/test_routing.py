"""Which operation a request is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import pytest

from proxy.s3.errors import S3Error
from proxy.s3.routing import OPERATIONS, SUBRESOURCES, choose_operation

B, K = b"bucket", b"key"


@pytest.mark.parametrize(
    ("method", "bucket", "key", "parameters", "copies", "operation"),
    [
        ("GET", b"", b"", {}, False, "ListBuckets"),
        ("GET", B, b"", {}, False, "ListObjects"),
        ("GET", B, b"", {"prefix": "a", "max-keys": "3"}, False, "ListObjects"),
        ("GET", B, b"", {"list-type": "2"}, False, "ListObjectsV2"),
        ("GET", B, b"", {"list-type": "1"}, False, "ListObjects"),
        ("GET", B, b"", {"versions": ""}, False, "ListObjectVersions"),
        ("GET", B, b"", {"uploads": ""}, False, "ListMultipartUploads"),
        ("GET", B, b"", {"location": ""}, False, "GetBucketLocation"),
        ("PUT", B, b"", {}, False, "CreateBucket"),
        ("PUT", B, b"", {"policy": ""}, False, "PutBucketPolicy"),
        ("DELETE", B, b"", {}, False, "DeleteBucket"),
        ("DELETE", B, b"", {"policy": ""}, False, "DeleteBucketPolicy"),
        ("HEAD", B, b"", {}, False, "HeadBucket"),
        ("POST", B, b"", {"delete": ""}, False, "DeleteObjects"),
        ("POST", B, b"", {}, False, "PostObject"),
        ("GET", B, K, {}, False, "GetObject"),
        ("GET", B, K, {"partNumber": "3"}, False, "GetObject"),
        ("HEAD", B, K, {"partNumber": "3"}, False, "HeadObject"),
        ("GET", B, K, {"versionId": "null"}, False, "GetObject"),
        ("GET", B, K, {"x-id": "GetObject"}, False, "GetObject"),
        ("GET", B, K, {"uploadId": "x", "max-parts": "3"}, False, "ListParts"),
        ("PUT", B, K, {}, False, "PutObject"),
        ("PUT", B, K, {}, True, "CopyObject"),
        ("PUT", B, K, {"partNumber": "1", "uploadId": "x"}, False, "UploadPart"),
        ("PUT", B, K, {"uploadId": "x", "partNumber": "1"}, True, "UploadPartCopy"),
        ("PUT", B, K, {"tagging": ""}, False, "PutObjectTagging"),
        ("POST", B, K, {"uploads": ""}, False, "CreateMultipartUpload"),
        ("POST", B, K, {"uploadId": "x"}, False, "CompleteMultipartUpload"),
        ("DELETE", B, K, {"uploadId": "x"}, False, "AbortMultipartUpload"),
        ("DELETE", B, K, {"tagging": ""}, False, "DeleteObjectTagging"),
        ("DELETE", B, K, {"versionId": "null"}, False, "DeleteObject"),
    ],
)
def test_requests_become_operations(
    method: str, bucket: bytes, key: bytes, parameters: Mapping[str, str], copies: bool, operation: str
) -> None:
    """Method, address, query and copy source say which operation it is."""
    assert choose_operation(method, bucket, key, parameters, copies) == operation
    assert operation in OPERATIONS


@pytest.mark.parametrize(
    ("method", "bucket", "key", "parameters"),
    [
        ("PUT", b"", b"", {}),
        ("DELETE", b"", b"", {}),
        ("POST", b"", b"", {}),
        ("POST", B, K, {}),
        ("PATCH", B, K, {}),
        ("TRACE", B, b"", {}),
        ("DELETE", B, K, {"acl": ""}),
        ("DELETE", B, b"", {"versions": ""}),
        ("DELETE", B, b"", {"uploads": ""}),
        ("PUT", B, b"", {"location": ""}),
        ("HEAD", B, b"", {"acl": ""}),
    ],
)
def test_what_is_no_operation_is_refused(method: str, bucket: bytes, key: bytes, parameters: Mapping[str, str]) -> None:
    """405 for methods that a resource does not have."""
    with pytest.raises(S3Error, match="MethodNotAllowed"):
        choose_operation(method, bucket, key, parameters, False)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "HEAD"])
@pytest.mark.parametrize("key", [b"", K])
@pytest.mark.parametrize("name", sorted(SUBRESOURCES - {"partNumber"}))
def test_a_subresource_is_never_taken_for_the_thing_itself(method: str, key: bytes, name: str) -> None:
    """Deleting a policy can never delete the bucket: a query with a sub-resource never reaches a plain operation."""
    plain = {
        *("GetObject", "PutObject", "DeleteObject", "HeadObject"),
        *("ListObjects", "CreateBucket", "DeleteBucket", "HeadBucket", "PostObject"),
    }
    operation = ""
    with suppress(S3Error):
        operation = choose_operation(method, B, key, {"prefix": "x", name: ""}, False)
    assert operation not in plain
