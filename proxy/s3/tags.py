"""Object tags: the header form, the XML form, and the rules for both.

Tags are up to ten pairs of text. They travel as a query string (`x-amz-tagging: a=b&c=d`) or as a document, and are kept
in the object's metadata as `sys:tagging` in the query string's form, which Swift ignores.

Source: "Categorizing your storage using tags" of the S3 User Guide.

Invariant: what is stored has been checked, so it is written into answers without a second look.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from proxy.s3.errors import S3Error
from proxy.s3.settings import TAG_COUNT_MAX, TAG_KEY_CHARS_MAX, TAG_VALUE_CHARS_MAX
from proxy.s3.xml import MalformedDocument, child_text, children, element, parse

Tags = tuple[tuple[str, str], ...]


def parse_tag_header(value: str) -> Tags:
    """The tags in x-amz-tagging. Raises InvalidArgument or InvalidTag."""
    try:
        pairs = parse_qsl(value, keep_blank_values=True, errors="strict", max_num_fields=TAG_COUNT_MAX + 1)
    except ValueError as error:
        raise S3Error(
            "InvalidArgument",
            'The header "x-amz-tagging" shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name '
            "duplicates.",
            (("ArgumentName", "x-amz-tagging"), ("ArgumentValue", value)),
        ) from error
    return check_tags(tuple(pairs))


def parse_tag_document(text: bytes) -> Tags:
    """The tags in a Tagging document. Raises MalformedDocument, InvalidTag and its like."""
    root = parse(text, "Tagging")
    sets = list(children(root, "TagSet"))
    if len(sets) != 1:
        raise MalformedDocument("a Tagging document has one TagSet")
    pairs: list[tuple[str, str]] = []
    for tag in children(sets[0], "Tag"):
        key, value = child_text(tag, "Key"), child_text(tag, "Value")
        if key is None or value is None:
            raise MalformedDocument("a Tag has a Key and a Value")
        pairs.append((key, value))
    return check_tags(tuple(pairs))


def check_tags(tags: Tags) -> Tags:
    """The tags in the order of their keys, if an object may have them. Raises BadRequest, InvalidTag."""
    if len(tags) > TAG_COUNT_MAX:
        raise S3Error("BadRequest", f"Object tags cannot be greater than {TAG_COUNT_MAX}")
    if len({key for key, _ in tags}) != len(tags):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    for key, value in tags:
        if not 1 <= len(key) <= TAG_KEY_CHARS_MAX:
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", (("TagKey", key),))
        if len(value) > TAG_VALUE_CHARS_MAX:
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", (("TagValue", value),))
    return tuple(sorted(tags))


def pack_tags(tags: Tags) -> str:
    """Tags as they are stored."""
    return urlencode(tags)


def unpack_tags(stored: str) -> Tags:
    """Tags from what is stored."""
    return tuple(parse_qsl(stored, keep_blank_values=True))


def tag_set(tags: Tags) -> str:
    """The TagSet element."""
    rows = "".join(f"<Tag>{element('Key', key)}{element('Value', value)}</Tag>" for key, value in tags)
    return f"<TagSet>{rows}</TagSet>"
