"""Events: tokens, coalescing, long polls, and the older register and next."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.xen.simulator.calls.event import Pending
from scheduler.xen.simulator.database import GRAVESTONES_MAX, Database
from scheduler.xen.simulator.failure import Failure
from tests.scheduler.xen.simulator.world import Client


def poll(client: Client, classes: list[str], token: str, timeout: float = 0.0) -> tuple[list[tuple[str, ...]], str]:
    """([(class, operation, ref)], token)."""
    batch: dict[str, Any] = client("event.from", classes, token, timeout)
    return [(event["class"], event["operation"], event["ref"]) for event in batch["events"]], batch["token"]


def test_the_first_poll_tells_all_that_there_is(client: Client) -> None:
    """Every object as an addition, classes in lower case, with the counts that hold."""
    batch = client("event.from", ["VM", "host"], "", 0.0)
    assert {event["class"] for event in batch["events"]} == {"vm", "host"}
    assert {event["operation"] for event in batch["events"]} == {"add"}
    assert batch["valid_ref_counts"] == {"vm": len(client("VM.get_all")), "host": 3}
    snapshots = {event["ref"]: event["snapshot"] for event in batch["events"] if event["class"] == "vm"}
    assert snapshots == client("VM.get_all_records")


def test_changes_of_one_object_are_one_event(client: Client) -> None:
    """Added, changed five times and gone within one poll: what is left of it is told, and only once."""
    _, token = poll(client, ["*"], "")
    vm = client("VM.create", {"name_label": "vm"})
    for index in range(5):
        client("VM.set_name_label", vm, f"name {index}")
    events, after = poll(client, ["vm"], token)
    assert events == [("vm", "add", vm)]
    client("VM.set_name_label", vm, "last")
    client("VM.destroy", vm)
    assert poll(client, ["vm"], after)[0] == [("vm", "del", vm)]
    assert poll(client, ["vm"], token)[0] == []


def test_a_poll_is_about_the_classes_asked_for(client: Client) -> None:
    """Classes, one object of a class, or all; case does not matter."""
    _, token = poll(client, ["*"], "")
    vm, host = client.vm(), client.hosts()[0]
    assert {cls for cls, _, _ in poll(client, ["VDI", "vbd"], token)[0]} == {"vdi", "vbd"}
    client("host.set_name_label", host, "renamed")
    assert poll(client, [f"host/{host}"], token)[0] == [("host", "mod", host)]
    assert ("vm", "add", vm) in poll(client, ["*"], token)[0]
    assert client.failure("event.from", ["vm/"], token, 0.0) == ["EVENT_SUBSCRIPTION_PARSE_FAILURE", "vm/"]


def test_a_poll_without_news_waits(client: Client) -> None:
    """It is answered when something changed, or empty when its time is over."""
    _, token = poll(client, ["*"], "")
    waiting = client.raw("event.from", ["network"], token, 30.0)
    assert isinstance(waiting, Pending)
    assert waiting.timeout_s == 30.0
    assert waiting.empty["events"] == []
    client.vm()
    assert isinstance(client.raw("event.from", ["PIF"], token, 30.0), Pending)
    assert client.raw("event.from", ["network"], token, 30.0)["events"]


def test_an_injected_event_is_seen(client: Client) -> None:
    """`event.inject` marks a moment: who polls from before sees the object."""
    _, token = poll(client, ["*"], "")
    pool = client("pool.get_all")[0]
    later = client("event.inject", "pool", pool)
    assert poll(client, ["pool"], token)[0] == [("pool", "mod", pool)]
    assert poll(client, ["pool"], later)[0] == []


@pytest.mark.parametrize("token", ["nonsense", "1", "1,x", "-1,0", "\u0661,\u0662"])
def test_a_token_that_is_none_is_refused(client: Client, token: str) -> None:
    """With the token in the failure."""
    assert client.failure("event.from", ["*"], token, 0.0) == ["EVENT_FROM_TOKEN_PARSE_FAILURE", token]


def test_lost_events_are_told(client: Client) -> None:
    """A pool that lost its history, and one that never had it, say so; the empty token begins anew."""
    _, token = poll(client, ["*"], "")
    client.pool.database.forget_changes()
    assert client.failure("event.from", ["*"], token, 0.0) == ["EVENTS_LOST"]
    assert client.failure("event.from", ["*"], f"{10**19:020d},{0:020d}", 0.0) == ["EVENTS_LOST"]
    events, token = poll(client, ["*"], "")
    assert events
    assert poll(client, ["*"], token)[0] == []


def test_removals_are_remembered_up_to_a_number() -> None:
    """Beyond it a poll from before is told that events were lost, never nothing."""
    counter = iter(range(10**6))
    database = Database(lambda: str(next(counter)))
    begin = database.add("network").modified
    for _ in range(GRAVESTONES_MAX + 5):
        database.remove(database.add("network"))
    with pytest.raises(Failure, match="EVENTS_LOST"):
        database.changes_since(begin)
    assert database.changes_since(database.generation - 2).removed


def test_register_and_next_tell_each_change_once(client: Client) -> None:
    """The older way: what changed since the last time, and nothing before the first."""
    assert client.failure("event.next")[0] == "SESSION_NOT_REGISTERED"
    client("event.register", ["vm"])
    vm = client("VM.create", {"name_label": "vm"})
    events = client("event.next")
    assert [(event["class"], event["ref"]) for event in events] == [("vm", vm)]
    assert isinstance(client.raw("event.next"), Pending)
    client("event.unregister", ["vm"])
    assert client.failure("event.next")[0] == "SESSION_NOT_REGISTERED"


def test_what_a_client_was_told_is_what_there_is(client: Client) -> None:
    """A copy that is kept by events alone equals the records, through starts, moves and removals."""
    copy: dict[str, dict[str, Any]] = {}
    token = ""
    hosts = client.hosts()

    def follow() -> None:
        nonlocal token
        batch = client("event.from", ["*"], token, 0.0)
        token = batch["token"]
        for event in batch["events"]:
            if event["operation"] == "del":
                copy.pop(event["ref"], None)
            else:
                copy[event["ref"]] = event["snapshot"]

    follow()
    vms = [client.vm(f"vm{index}") for index in range(3)]
    follow()
    for vm in vms:
        client("VM.start_on", vm, hosts[0], False, False)
    client("VM.pool_migrate", vms[0], hosts[1], {})
    follow()
    client("VM.snapshot", vms[1], "point")
    client("VM.hard_shutdown", vms[2])
    client("VM.destroy", vms[2])
    follow()
    classes = (
        "VM",
        "VDI",
        "VBD",
        "VIF",
        "host",
        "SR",
        "console",
        "network",
        "VM_metrics",
        "VM_guest_metrics",
        "message",
    )
    records = {ref: record for cls in classes for ref, record in client(f"{cls}.get_all_records").items()}
    kept = {ref: copy[ref] for ref in copy if ref in records or "power_state" in copy[ref]}
    assert {ref: kept[ref] for ref in kept if ref in records} == records
    assert all(ref in records for ref in kept)
