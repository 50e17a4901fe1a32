"""S3's errors: their codes, their statuses, and the XML that clients parse.

Problem: a client decides by the Code element what went wrong and whether to try again, so each code must come with the
status and the fields that AWS gives it; and what the store raises must become one of them in a single place.

Idea: one table of code -> (status, message); `S3Error` carries a code, a message of its own where that says more, and the
code's extra fields in order. `from_store_error` turns the model's errors into S3's.

Source: the table "Error responses" of the Amazon S3 API Reference.

Invariants:
- Every code raised in this package is in the table (a test greps for it).
- The body of an error is XML with Code, Message, the extra fields, Resource, RequestId and HostId. HEAD gets none.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy import model
from proxy.http.message import HeaderList, Response
from proxy.s3.xml import DECLARATION, escape

CODES: dict[str, tuple[int, str]] = {
    "AccessDenied": (403, "Access Denied"),
    "AccessForbidden": (403, "CORSResponse: CORS is not enabled for this bucket."),
    "AuthorizationHeaderMalformed": (400, "The authorization header that you provided is not valid."),
    "AuthorizationQueryParametersError": (400, "The authorization query parameters that you provided are not valid."),
    "BadDigest": (400, "The Content-MD5 or checksum value that you specified did not match what the server received."),
    "BadRequest": (400, "The request is not valid."),
    "BucketAlreadyExists": (
        409,
        "The requested bucket name is not available: all users of the system share one name space. Choose another name.",
    ),
    "BucketAlreadyOwnedByYou": (409, "The bucket that you tried to create already exists, and you own it."),
    "BucketNotEmpty": (409, "The bucket that you tried to delete is not empty."),
    "ConditionalRequestConflict": (
        409,
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    ),
    "ContentSHA256Mismatch": (400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": (400, "Your proposed upload is smaller than the minimum allowed object size."),
    "ExpiredToken": (400, "The provided token has expired."),
    "IllegalLocationConstraintException": (400, "The specified location constraint is not valid."),
    "IncompleteBody": (400, "You did not provide the number of bytes specified by the Content-Length HTTP header."),
    "IncorrectNumberOfFilesInPostRequest": (400, "POST requires exactly one file upload per request."),
    "InternalError": (500, "An internal error occurred. Try again."),
    "InvalidAccessKeyId": (403, "The AWS access key ID that you provided does not exist in our records."),
    "InvalidArgument": (400, "Invalid argument."),
    "InvalidBucketName": (400, "The specified bucket is not valid."),
    "InvalidChunkSizeError": (403, "Only the last chunk is allowed to have a size less than 8192 bytes"),
    "InvalidDigest": (400, "The Content-MD5 or checksum value that you specified is not valid."),
    "InvalidLocationConstraint": (400, "The specified location constraint is not valid."),
    "InvalidPart": (
        400,
        "A specified part could not be found: it was not uploaded, or its entity tag is not the one specified.",
    ),
    "InvalidPartNumber": (416, "The requested partnumber is not satisfiable."),
    "InvalidPartOrder": (
        400,
        "The list of parts was not in ascending order. The parts list must be in part-number order.",
    ),
    "InvalidPolicyDocument": (
        400,
        "The content of the form does not meet the conditions specified in the policy document.",
    ),
    "InvalidRange": (416, "The requested range is not satisfiable."),
    "InvalidRequest": (400, "The request is not valid."),
    "InvalidStorageClass": (400, "The storage class that you specified is not valid."),
    "InvalidTag": (400, "The tag that you provided is not valid."),
    "InvalidURI": (400, "The specified URI couldn't be parsed."),
    "KeyTooLongError": (400, "Your key is too long."),
    "MalformedACLError": (400, "The ACL that you provided was not well formed or did not validate."),
    "MalformedPOSTRequest": (400, "The body of your POST request is not well-formed multipart/form-data."),
    "MalformedXML": (400, "The XML that you provided was not well formed or did not validate against our schema."),
    "MalformedTrailerError": (
        400,
        "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    ),
    "MaxMessageLengthExceeded": (400, "Your request was too large."),
    "MaxPostPreDataLengthExceededError": (400, "Your POST request fields preceding the upload file were too large."),
    "MetadataTooLarge": (400, "Your metadata headers exceed the maximum allowed metadata size."),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "MissingRequestBodyError": (400, "Request Body is empty"),
    "MissingSecurityHeader": (400, "Your request is missing a required header."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchBucketPolicy": (404, "The bucket policy does not exist"),
    "NoSuchCORSConfiguration": (404, "The CORS configuration does not exist"),
    "NoSuchConfiguration": (404, "The specified configuration does not exist."),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchLifecycleConfiguration": (404, "The lifecycle configuration does not exist"),
    "NoSuchObjectLockConfiguration": (404, "The specified object does not have an ObjectLock configuration"),
    "NoSuchPublicAccessBlockConfiguration": (404, "The public access block configuration was not found"),
    "NoSuchTagSet": (404, "The TagSet does not exist"),
    "NoSuchUpload": (
        404,
        "The specified upload does not exist: the upload ID is not valid, or the upload was aborted or completed.",
    ),
    "NoSuchVersion": (404, "The specified version does not exist."),
    "NoSuchWebsiteConfiguration": (404, "The specified bucket does not have a website configuration"),
    "NotImplemented": (501, "A header or parameter that you provided implies functionality that is not implemented"),
    "NotModified": (304, "Not Modified"),
    "ObjectLockConfigurationNotFoundError": (404, "Object Lock configuration does not exist for this bucket"),
    "OperationAborted": (
        409,
        "A conflicting conditional operation is currently in progress against this resource. Try again.",
    ),
    "OwnershipControlsNotFoundError": (404, "The bucket ownership controls were not found"),
    "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
    "ReplicationConfigurationNotFoundError": (404, "The replication configuration was not found"),
    "RequestHeaderSectionTooLarge": (400, "Your request headers exceeded the maximum allowed size."),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the server's time is too large."),
    "RequestTimeout": (
        408,
        "Your socket connection to the server was not read from or written to within the timeout period.",
    ),
    "ServerSideEncryptionConfigurationNotFoundError": (404, "The server side encryption configuration was not found"),
    "ServiceUnavailable": (503, "Service is unable to handle request. Please try again."),
    "SignatureDoesNotMatch": (
        403,
        "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "XAmzContentSHA256Mismatch": (400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
}


class S3Error(Exception):
    """A request that is answered with an S3 error document.

    `code` is one of `CODES`; `message` replaces the table's where it says more. `fields` are the code's extra elements,
    in order. `headers` go with the answer; `close` ends the connection after it (the request's body makes no sense).
    """

    __slots__ = ("close", "code", "fields", "headers", "message", "status")

    def __init__(
        self,
        code: str,
        message: str = "",
        fields: Sequence[tuple[str, str]] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
        close: bool = False,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status, default = CODES[code]
        self.message = message or default
        self.fields = fields
        self.headers = headers
        self.close = close

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def invalid_argument(name: str, value: str, message: str = "") -> S3Error:
    """InvalidArgument with its two fields."""
    return S3Error("InvalidArgument", message, (("ArgumentName", name), ("ArgumentValue", value)))


def not_implemented(header: str, message: str = "") -> S3Error:
    """NotImplemented for a header that asks for what this store does not do."""
    return S3Error("NotImplemented", message, (("Header", header),))


def no_such_version(key: str, version_id: str) -> S3Error:
    """The answer to every version id but null."""
    return S3Error("NoSuchVersion", fields=(("Key", key), ("VersionId", version_id)))


def from_store_error(error: model.StoreError, bucket: str, key: str) -> S3Error:
    """The S3 error that says what the object model said about `bucket` and `key`."""
    match error:
        case model.NoSuchObject():
            return S3Error("NoSuchKey", fields=(("Key", key),))
        case model.AccountDeleted():
            return S3Error("AccessDenied", "The account was deleted.")
        case model.NoSuchContainer() | model.NoSuchAccount():
            return S3Error("NoSuchBucket", fields=(("BucketName", bucket),))
        case model.ContainerNotEmpty():
            return S3Error("BucketNotEmpty", fields=(("BucketName", bucket),))
        case model.ContainerExists():
            return S3Error("BucketAlreadyExists", fields=(("BucketName", bucket),))
        case model.PreconditionFailed(racing=True):
            return S3Error("ConditionalRequestConflict", fields=(("Condition", error.condition), ("Key", key)))
        case model.PreconditionFailed():
            return S3Error("PreconditionFailed", fields=(("Condition", error.condition),))
        case model.BadDigest():
            return S3Error("BadDigest")
        case model.EntityTooLarge():
            limit = str(model.OBJECT_SIZE_BYTES_MAX)
            return S3Error("EntityTooLarge", fields=(("MaxSizeAllowed", limit),), close=True)
        case model.NameInvalid():
            return S3Error("InvalidURI", str(error))
        case model.InsufficientStorage():
            return S3Error("ServiceUnavailable", "The storage is full.")
        case model.Unavailable():
            return S3Error("SlowDown", "Too few replicas answered in time. Please try again.")
        case model.SegmentMissing():
            return S3Error("InternalError", "A part of the object is missing.")
        case _:
            return S3Error("InternalError", str(error))


def error_document(error: S3Error, resource: str, request_id: str, host_id: str) -> bytes:
    """The XML of an error."""
    fields = "".join(_element(name, value) for name, value in error.fields)
    return (
        f"{DECLARATION}<Error><Code>{error.code}</Code>{_element('Message', error.message)}{fields}"
        f"{_element('Resource', resource)}{_element('RequestId', request_id)}{_element('HostId', host_id)}</Error>"
    ).encode("utf-8", "replace")


def _element(name: str, text: str) -> str:
    """An element whose text any parser reads: what was sent may hold what XML cannot."""
    return f"<{name}>{escape(text.translate(_UNSPEAKABLE))}</{name}>"


_UNSPEAKABLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 65534, 65535), "�")


def error_response(error: S3Error, method: str, resource: str, request_id: str, host_id: str) -> Response:
    """The answer to a request that failed. HEAD and 304 carry no document."""
    headers: HeaderList = list(error.headers)
    if method == "HEAD" or error.status == 304:
        return Response(error.status, headers, b"", close=error.close)
    headers.append((b"content-type", b"application/xml"))
    return Response(error.status, headers, error_document(error, resource, request_id, host_id), close=error.close)
