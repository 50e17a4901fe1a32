"""Sub-resources: what is empty, absent, refused; ACLs and tags; on a real store."""

from __future__ import annotations

import pytest

from proxy.s3.errors import CODES
from proxy.s3.routing import OPERATIONS
from tests.proxy.s3.client import S3World


async def test_every_operation_has_an_answer(world: S3World) -> None:
    """Whatever the router can say, the app can do or refuse."""
    assert set(world.app._operations) | {"PostObject"} == OPERATIONS


async def test_an_untouched_bucket_looks_as_at_aws(world: S3World) -> None:
    """Neutral documents, and the error that says that nobody has set it."""
    main = world.main
    for name, root in (
        ("versioning", "VersioningConfiguration"),
        ("logging", "BucketLoggingStatus"),
        ("notification", "NotificationConfiguration"),
        ("accelerate", "AccelerateConfiguration"),
        ("requestPayment", "RequestPaymentConfiguration"),
        ("metrics", "ListMetricsConfigurationsResult"),
    ):
        answer = await main("GET", "/bucket", query=name)
        assert answer.status == 200
        assert answer.xml.tag.endswith("}" + root)
    for name, code in (
        ("policy", "NoSuchBucketPolicy"),
        ("policyStatus", "NoSuchBucketPolicy"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("cors", "NoSuchCORSConfiguration"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("tagging", "NoSuchTagSet"),
        ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
        ("ownershipControls", "OwnershipControlsNotFoundError"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ("metrics&id=x", "NoSuchConfiguration"),
    ):
        answer = await main("GET", "/bucket", query=name)
        assert (answer.status, answer.code) == (404, code)
        assert CODES[code][0] == 404
    assert (await main("GET", "/nobody", query="versioning")).code == "NoSuchBucket"


async def test_what_cannot_be_set_is_refused(world: S3World) -> None:
    """NotImplemented, and the bucket is what it was."""
    main = world.main
    for name in ("versioning", "policy", "lifecycle", "cors", "encryption", "object-lock", "replication", "website"):
        refused = await main("PUT", "/bucket", b"<X/>", query=name)
        assert (refused.status, refused.code) == (501, "NotImplemented"), name
    for name in ("policy", "lifecycle", "cors", "encryption"):
        assert (await main("DELETE", "/bucket", query=name)).status == 204
    assert (await main("HEAD", "/bucket")).status == 200
    assert (await main("POST", "/bucket/key", query="restore")).code == "NotImplemented"


async def test_the_owner_has_full_control(world: S3World) -> None:
    """The ACL that there is is shown, may be set again in any spelling, and no other may."""
    main = world.main
    await main("PUT", "/bucket/key", b"data")
    grant = (
        '<AccessControlPolicy xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><AccessControlList><Grant>'
        '<Grantee xsi:type="CanonicalUser"><ID>{}</ID></Grantee><Permission>{}</Permission></Grant></AccessControlList>'
        "</AccessControlPolicy>"
    )
    own, others = grant.format(main.user.id, "FULL_CONTROL"), grant.format(world.other.user.id, "READ")
    for path in ("/bucket", "/bucket/key"):
        shown = await main("GET", path, query="acl")
        assert shown.text("Owner/ID") == main.user.id
        assert shown.texts("AccessControlList/Grant/Permission") == ["FULL_CONTROL"]
        assert shown.texts("AccessControlList/Grant/Grantee/DisplayName") == ["T. main"]
        assert (await main("PUT", path, headers={"x-amz-acl": "private"}, query="acl")).status == 200
        assert (await main("PUT", path, shown.body, query="acl")).status == 200
        assert (await main("PUT", path, own.encode(), query="acl")).status == 200
        for body, headers, code in (
            (b"", {"x-amz-acl": "public-read"}, "NotImplemented"),
            (b"", {"x-amz-acl": "public-ready"}, "InvalidArgument"),
            (b"", {"x-amz-grant-read": "id=x"}, "NotImplemented"),
            (others.encode(), {}, "NotImplemented"),
            (b"<AccessControlPolicy/>", {}, "MalformedACLError"),
            (b"<Nonsense/>", {}, "MalformedXML"),
        ):
            assert (await main("PUT", path, body, headers, query="acl")).code == code
    assert (await main("GET", "/bucket/missing", query="acl")).code == "NoSuchKey"


async def test_tags_of_objects(world: S3World) -> None:
    """Set with the object or after it, shown, counted, replaced, removed; the object itself stays as it is."""
    main = world.main
    await main("PUT", "/bucket/key", b"data", {"x-amz-tagging": "a=1&b=%C3%A4", "x-amz-meta-m": "x"})
    shown = await main("GET", "/bucket/key", query="tagging")
    assert shown.texts("TagSet/Tag/Key") == ["a", "b"]
    assert shown.texts("TagSet/Tag/Value") == ["1", "ä"]
    tags = b"<Tagging><TagSet><Tag><Key>c</Key><Value></Value></Tag></TagSet></Tagging>"
    assert (await main("PUT", "/bucket/key", tags, query="tagging")).status == 200
    got = await main("GET", "/bucket/key")
    assert (got.body, got.headers["x-amz-tagging-count"], got.headers["x-amz-meta-m"]) == (b"data", "1", "x")
    assert (await main("DELETE", "/bucket/key", query="tagging")).status == 204
    assert (await main("GET", "/bucket/key", query="tagging")).texts("TagSet/Tag/Key") == []
    assert "x-amz-tagging-count" not in (await main("GET", "/bucket/key")).headers
    many = b"".join(b"<Tag><Key>%d</Key><Value/></Tag>" % i for i in range(11))
    refused = await main("PUT", "/bucket/key", b"<Tagging><TagSet>" + many + b"</TagSet></Tagging>", query="tagging")
    assert (refused.status, refused.code) == (400, "BadRequest")
    assert (await main("PUT", "/bucket/key", b"<Tagging/>", query="tagging")).code == "MalformedXML"


async def test_tags_of_buckets(world: S3World) -> None:
    """Set, shown, removed."""
    main = world.main
    tags = b"<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    assert (await main("PUT", "/bucket", tags, query="tagging")).status == 204
    assert (await main("GET", "/bucket", query="tagging")).texts("TagSet/Tag/Value") == ["1"]
    assert (await main("DELETE", "/bucket", query="tagging")).status == 204
    assert (await main("GET", "/bucket", query="tagging")).code == "NoSuchTagSet"


async def test_documents_have_bounds(world: S3World) -> None:
    """A body longer than a document may be is refused, and so are bombs."""
    main = world.main
    bomb = b'<!DOCTYPE t [<!ENTITY a "x">]><Tagging><TagSet>&a;</TagSet></Tagging>'
    assert (await main("PUT", "/bucket", bomb, query="tagging")).code == "MalformedXML"
    assert (
        await main("PUT", "/bucket", b"<Tagging>" + b" " * 1024**2, query="tagging")
    ).code == "MaxMessageLengthExceeded"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_methods_that_a_subresource_has_not(world: S3World, method: str) -> None:
    """405, and nothing happened."""
    missing = {"GET": "delete", "PUT": "location", "DELETE": "versions"}[method]
    answer = await world.main(method, "/bucket", query=missing)
    assert (answer.status, answer.code) == (405, "MethodNotAllowed")
