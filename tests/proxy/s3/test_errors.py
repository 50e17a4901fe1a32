"""Error documents."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

import proxy.s3
from proxy import model
from proxy.s3.errors import CODES, S3Error, error_response, from_store_error, invalid_argument


def test_an_error_document_has_what_clients_read() -> None:
    """Code, Message, the code's own fields, Resource, RequestId and HostId, escaped."""
    error = invalid_argument("max-keys", "<blah>", "Not & never")
    response = error_response(error, "GET", "/bucket/a<b", "tx1", "host")
    assert response.status == 400
    assert (b"content-type", b"application/xml") in response.headers
    assert isinstance(response.body, bytes)
    fields = {node.tag: node.text for node in fromstring(response.body)}
    assert fields == {
        "Code": "InvalidArgument",
        "Message": "Not & never",
        "ArgumentName": "max-keys",
        "ArgumentValue": "<blah>",
        "Resource": "/bucket/a<b",
        "RequestId": "tx1",
        "HostId": "host",
    }


@pytest.mark.parametrize(("method", "code"), [("HEAD", "NoSuchKey"), ("GET", "NotModified")])
def test_some_answers_have_no_document(method: str, code: str) -> None:
    """HEAD and 304 carry headers alone."""
    response = error_response(S3Error(code), method, "/b/k", "tx1", "host")
    assert response.body == b""
    assert response.headers == []


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (model.NoSuchObject(), "NoSuchKey", 404),
        (model.NoSuchContainer(), "NoSuchBucket", 404),
        (model.NoSuchAccount(), "NoSuchBucket", 404),
        (model.ContainerNotEmpty(), "BucketNotEmpty", 409),
        (model.PreconditionFailed("", "If-Match"), "PreconditionFailed", 412),
        (model.PreconditionFailed("", "If-Match", racing=True), "ConditionalRequestConflict", 409),
        (model.BadDigest(), "BadDigest", 400),
        (model.EntityTooLarge(), "EntityTooLarge", 400),
        (model.InsufficientStorage(), "ServiceUnavailable", 503),
        (model.Unavailable(), "SlowDown", 503),
        (model.SegmentMissing(), "InternalError", 500),
    ],
)
def test_what_the_store_says_becomes_an_s3_error(error: model.StoreError, code: str, status: int) -> None:
    """Each error of the model has its code and status; those that a retry cures are 503."""
    mapped = from_store_error(error, "bucket", "key")
    assert (mapped.code, mapped.status) == (code, status)


def test_every_code_that_is_raised_is_in_the_table() -> None:
    """A misspelt code is found here and not by a client."""
    folder = Path(proxy.s3.__file__).parent
    raised = {
        code for path in folder.glob("*.py") for code in re.findall(r'S3Error\(\s*"([A-Za-z0-9]+)"', path.read_text())
    }
    assert raised
    assert raised <= set(CODES)
