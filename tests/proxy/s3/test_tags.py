"""Tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3.errors import S3Error
from proxy.s3.tags import check_tags, pack_tags, parse_tag_document, parse_tag_header, tag_set, unpack_tags
from proxy.s3.xml import MalformedDocument, document

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=30)
TAGS = st.dictionaries(TEXT.filter(bool), TEXT, max_size=10).map(lambda tags: tuple(sorted(tags.items())))


@given(TAGS)
def test_tags_survive_storing_and_showing(tags: tuple[tuple[str, str], ...]) -> None:
    """What was set is what is stored, and what is shown parses to the same."""
    assert unpack_tags(pack_tags(tags)) == tags
    assert parse_tag_header(pack_tags(tags)) == tags
    assert parse_tag_document(document("Tagging", tag_set(tags))) == tags


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        (tuple((str(i), "") for i in range(11)), "BadRequest"),
        ((("a", "1"), ("a", "2")), "InvalidTag"),
        ((("", "1"),), "InvalidTag"),
        ((("k" * 129, "1"),), "InvalidTag"),
        ((("k", "v" * 257),), "InvalidTag"),
    ],
)
def test_tags_have_limits(tags: tuple[tuple[str, str], ...], code: str) -> None:
    """Ten tags, keys of 128 and values of 256 characters, each key once."""
    with pytest.raises(S3Error, match=code):
        check_tags(tags)


def test_a_name_alone_is_a_tag_without_value() -> None:
    """As AWS reads the header."""
    assert parse_tag_header("foo=bar&bar") == (("bar", ""), ("foo", "bar"))
    assert parse_tag_header("") == ()


@pytest.mark.parametrize("value", ["%ff=1", "&".join(f"{i}=1" for i in range(50))])
def test_headers_that_are_no_query_are_refused(value: str) -> None:
    """x-amz-tagging must be a query string of few pairs."""
    with pytest.raises(S3Error, match="InvalidArgument"):
        parse_tag_header(value)


@pytest.mark.parametrize(
    "text", [b"<Tagging/>", b"<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>", b"<Other/>"]
)
def test_documents_that_are_no_tags_are_refused(text: bytes) -> None:
    """A Tagging document has one TagSet of Tags with Key and Value."""
    with pytest.raises(MalformedDocument):
        parse_tag_document(text)
