"""The table of error codes holds what the pool's calls can raise, and errs to the safe side."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from scheduler.hypervisor import Gone, HypervisorError, NextHost, NextSr, Refused, TryAgain, WrongState
from scheduler.xen import errors
from tests.scheduler.xen.raised_codes import RAISED

DATAMODEL = Path(
    os.environ.get("RINGSTEAD_XENAPI_DATAMODEL", Path(__file__).resolve().parents[4] / "shared" / "xenapi")
)


@pytest.mark.parametrize("module", sorted(RAISED))
def test_each_code_that_a_module_can_raise_has_a_class(module: str) -> None:
    """No code that the driver's calls can meet is left to the default."""
    assert [code for code in RAISED[module] if code not in errors.CLASSES] == []


def test_the_table_invents_no_codes() -> None:
    """Each code in the table is one of the datamodel's, or one that xapi raises beside it."""
    if not (DATAMODEL / "xenapi-compact.json").exists():
        pytest.skip("the datamodel is not here; $RINGSTEAD_XENAPI_DATAMODEL names its folder")
    known = set(json.loads((DATAMODEL / "xenapi-compact.json").read_text())["errors"])
    behaviour = json.loads((DATAMODEL / "xenapi-behaviour.json").read_text())
    known |= set(behaviour["codes_raised_but_absent_from_datamodel"])
    assert [code for code in errors.CLASSES if code not in known] == []
    for module, codes in RAISED.items():
        assert behaviour["modules"][module] == codes


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("HOST_IS_SLAVE", errors.WrongMaster),
        ("SESSION_INVALID", errors.SessionLost),
        ("EVENTS_LOST", errors.EventsLost),
        ("OTHER_OPERATION_IN_PROGRESS", TryAgain),
        ("TOO_MANY_STORAGE_MIGRATES", TryAgain),
        ("HOST_NOT_ENOUGH_FREE_MEMORY", NextHost),
        ("HOST_NOT_LIVE", NextHost),
        ("HOST_IS_LIVE", WrongState),
        ("SR_FULL", NextSr),
        ("SR_BACKEND_FAILURE_44", NextSr),
        ("VM_BAD_POWER_STATE", WrongState),
        ("HANDLE_INVALID", Gone),
        ("DEVICE_DETACH_REJECTED", errors.DetachRejected),
        ("TASK_CANCELLED", errors.Cancelled),
        ("RBAC_PERMISSION_DENIED", errors.NotPermitted),
    ],
)
def test_codes_have_the_consequence_that_they_ask_for(code: str, kind: type[HypervisorError]) -> None:
    """One of each class, by hand, so that a mistake in the table's making shows."""
    error = errors.failure([code, "OpaqueRef:1"], "p1")
    assert type(error) is kind
    assert error.code == code
    assert "p1" in str(error)


@pytest.mark.parametrize("code", ["A_CODE_OF_NEXT_YEAR", "", "HANDLE_INVALID_TOO", "sr_full"])
def test_an_unlisted_code_is_neither_repeated_nor_taken_for_gone(code: str) -> None:
    """The safe default: it fails, as it came, and nothing follows from it."""
    error = errors.failure([code], "p1")
    assert type(error) is errors.CallFailed
    assert isinstance(error, Refused)
    assert not isinstance(error, TryAgain | NextHost | NextSr | Gone | WrongState)


def test_a_lost_session_is_not_told_in_the_error() -> None:
    """The session is as good as the password for as long as it lasts."""
    assert "OpaqueRef:secret" not in str(errors.failure(["SESSION_INVALID", "OpaqueRef:secret"], "p1"))


def test_the_master_is_told() -> None:
    """HOST_IS_SLAVE says where to go."""
    error = errors.failure(["HOST_IS_SLAVE", "10.0.0.7"], "p1")
    assert isinstance(error, errors.WrongMaster)
    assert error.master == "10.0.0.7"


def test_nonsense_makes_an_error_too() -> None:
    """An empty or enormous description is no crash and no log full of it."""
    assert errors.failure([], "p1").code == "INTERNAL_ERROR"
    assert len(str(errors.failure(["SR_BACKEND_FAILURE_1", "x" * 100_000], "p1"))) < 1000


def test_a_guest_that_cannot_be_asked_comes_with_advice() -> None:
    """The code alone tells nobody that --hard is the way."""
    assert "--hard" in str(errors.failure(["VM_LACKS_FEATURE", "OpaqueRef:1"], "p1"))
