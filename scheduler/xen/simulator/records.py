"""Records that clients send: which of their fields a constructor takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from scheduler.xen.simulator.schema import CLASSES, check

_POOLS_OWN: Final = frozenset({"uuid", "currently_attached", "device"})
"""Constructor fields by the datamodel that a pool sets itself all the same."""


def constructor_fields(cls: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that a client may set at creation, of the right types; others are left out.

    Raises Failure FIELD_TYPE_ERROR or INVALID_VALUE, naming the field.
    """
    fields = CLASSES[cls].fields
    return {
        name: check(fields[name].type, value, name)
        for name, value in record.items()
        if name in fields and fields[name].access != "ro" and name not in _POOLS_OWN
    }
