"""The policy of a form upload: what its signer allows the form to say.

A policy is a JSON document with an expiration and conditions. Each condition is about one field (`eq`, `starts-with`, or
an object with one member) or about the file's length. The form must meet all of them and must hold no field that no
condition speaks of, but for a few that cannot be signed.

Source: "Creating a POST policy" of the Amazon S3 API Reference.

Invariants: pure; everything in the policy that is not understood refuses it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from proxy.s3.errors import S3Error
from proxy.s3.settings import UPLOAD_SIZE_BYTES_MAX

_UNSIGNED = frozenset(("awsaccesskeyid", "signature", "file", "policy", "x-amz-signature", "submit"))
"""Fields that need no condition."""
_CONDITION_COUNT_MAX = 200


@dataclass(frozen=True, slots=True)
class FieldCondition:
    """One field must be, or begin with, a value."""

    field: str
    value: str
    prefix: bool


@dataclass(frozen=True, slots=True)
class PostPolicy:
    """A policy that was read."""

    expires_s: float
    conditions: tuple[FieldCondition, ...]
    length_min: int = 0
    length_max: int = UPLOAD_SIZE_BYTES_MAX


def parse_policy(encoded: str) -> PostPolicy:
    """The policy in a form's field. Raises InvalidPolicyDocument."""
    try:
        document = json.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _invalid("Invalid Policy: Invalid JSON.") from None
    if not isinstance(document, dict) or set(document) - {"expiration", "conditions"}:
        raise _invalid("Invalid Policy: Unexpected members.")
    listed = document.get("conditions")
    if not isinstance(listed, list) or len(listed) > _CONDITION_COUNT_MAX:
        raise _invalid("Invalid Policy: Policy missing conditions.")
    conditions: list[FieldCondition] = []
    length_min, length_max = 0, UPLOAD_SIZE_BYTES_MAX
    for item in listed:
        if isinstance(item, list) and item and str(item[0]).lower() == "content-length-range":
            low, high = _length_range(item)
            length_min, length_max = max(length_min, low), min(length_max, high)
        else:
            conditions.append(_field_condition(item))
    return PostPolicy(_expiration(document.get("expiration")), tuple(conditions), length_min, length_max)


def _expiration(value: object) -> float:
    if not isinstance(value, str) or not value.endswith("Z") or len(value) > 40:
        raise _invalid("Invalid Policy: Policy missing expiration, or its 'expiration' value is not a date in UTC.")
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise _invalid(f"Invalid Policy: Invalid 'expiration' value: '{value}'") from None


def _length_range(item: list[object]) -> tuple[int, int]:
    try:
        low, high = (int(bound) for bound in item[1:] if isinstance(bound, (int, str)) and not isinstance(bound, bool))
    except ValueError:
        low, high = -1, -1
    if not 0 <= low <= high or len(item) != 3:
        raise _invalid("Invalid Policy: Invalid content-length-range.")
    return low, high


def _field_condition(item: object) -> FieldCondition:
    if isinstance(item, dict) and len(item) == 1:
        ((name, value),) = item.items()
        if isinstance(value, str):
            return FieldCondition(name.lower(), value, prefix=False)
    if isinstance(item, list) and len(item) == 3 and all(isinstance(part, str) for part in item):
        operator, name, value = item
        if operator.lower() in ("eq", "starts-with") and name.startswith("$") and len(name) > 1:
            return FieldCondition(name[1:].lower(), value, prefix=operator.lower() == "starts-with")
    raise _invalid("Invalid Policy: Invalid condition.")


def check_policy(policy: PostPolicy, fields: Mapping[str, str], bucket: str, now_s: float) -> None:
    """Raise AccessDenied unless the form's fields (names in lower case) are what the policy allows."""
    if policy.expires_s <= now_s:
        raise S3Error("AccessDenied", "Invalid according to Policy: Policy expired.")
    values = {**fields, "bucket": bucket}
    spoken_of = {"bucket"} if "bucket" not in fields else set()
    bucket_allowed = False
    for condition in policy.conditions:
        value = values.get(condition.field, "")
        met = value.startswith(condition.value) if condition.prefix else value == condition.value
        if not met or (condition.field not in values and not (condition.prefix and not condition.value)):
            kind = "starts-with" if condition.prefix else "eq"
            raise S3Error(
                "AccessDenied",
                f'Invalid according to Policy: Policy Condition failed: ["{kind}", "${condition.field}", '
                f'"{condition.value}"]',
            )
        spoken_of.add(condition.field)
        bucket_allowed = bucket_allowed or condition.field == "bucket"
    if not bucket_allowed:
        raise S3Error("AccessDenied", "Invalid according to Policy: Policy does not name the bucket.")
    extra = [
        name
        for name in fields
        if name not in spoken_of and name not in _UNSIGNED and not name.startswith(("x-ignore-", "x-amz-checksum-"))
    ]
    if extra:
        raise S3Error("AccessDenied", f"Invalid according to Policy: Extra input fields: {', '.join(sorted(extra))}")


def _invalid(message: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", message)
