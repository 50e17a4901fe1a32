"""Calls: sessions, parameters, tasks, generic messages, and what a slave says."""

from __future__ import annotations

import pytest

from scheduler.xen.simulator.dispatch import serve
from scheduler.xen.simulator.failure import Failure
from tests.scheduler.xen.simulator.world import Client, World


def test_a_slave_names_the_master(world: World, client: Client) -> None:
    """At a slave a login fails with the master's address, and so does any call."""
    slave = client.pool.database.rows("host")[1]
    with pytest.raises(Failure) as caught:
        serve(client.pool, slave, "session.login_with_password", ["root", "root"], world.site)
    assert caught.value.description == ["HOST_IS_SLAVE", "127.0.0.1"]
    with pytest.raises(Failure, match="HOST_IS_SLAVE"):
        client.raw("VM.get_all", host=slave)
    assert serve(client.pool, slave, "session.slave_local_login_with_password", ["root", "root"], world.site)


def test_a_wrong_password_is_refused(world: World, client: Client) -> None:
    """Whatever is wrong, the failure is the same."""
    for user, password in (("root", "wrong"), ("toor", "root"), ("", ""), ("röt", "röt")):
        with pytest.raises(Failure, match="SESSION_AUTHENTICATION_FAILED"):
            serve(client.pool, client.pool.master, "session.login_with_password", [user, password], world.site)


def test_a_session_ends_with_its_logout(client: Client) -> None:
    """Afterwards its reference is worth nothing."""
    client("session.logout")
    assert client.failure("VM.get_all") == ["SESSION_INVALID", client.session]


def test_another_master_ends_all_sessions(client: Client) -> None:
    """Who asks the old master is sent to the new one."""
    hosts = client.pool.database.rows("host")
    client("pool.designate_new_master", hosts[1].ref)
    with pytest.raises(Failure) as caught:
        client.raw("VM.get_all", host=hosts[0])
    assert caught.value.description == ["HOST_IS_SLAVE", hosts[1]["address"]]


def test_calls_that_make_no_sense_are_told_why(client: Client) -> None:
    """Unknown methods, wrong numbers and types of parameters, references to nothing."""
    assert client.failure("VM.fly", "x") == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]
    assert client.failure("Async.VM.get_all") == ["MESSAGE_METHOD_UNKNOWN", "Async.VM.get_all"]
    assert client.failure("VM.start", "x") == ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "4", "2"]
    assert client.failure("VM.start", "OpaqueRef:x", False, False) == ["HANDLE_INVALID", "VM", "OpaqueRef:x"]
    vm = client.vm()
    assert client.failure("VM.start", vm, "yes", False) == ["FIELD_TYPE_ERROR", "start_paused"]
    assert client.failure("VM.set_VCPUs_max", vm, "many") == ["FIELD_TYPE_ERROR", "value"]
    assert client.failure("VM.set_VCPUs_max", vm, str(1 << 70)) == ["FIELD_TYPE_ERROR", "value"]
    assert client.failure("VM.get_by_uuid", "x") == ["UUID_INVALID", "VM", "x"]
    assert client.failure("VM.set_actions_after_reboot", vm, "explode") == ["INVALID_VALUE", "value", "explode"]


def test_maps_and_sets_are_changed_entry_by_entry(client: Client) -> None:
    """An entry twice is refused in a map and harmless in a set."""
    vm = client.vm()
    client("VM.add_to_xenstore_data", vm, "vm-data/x", "1")
    assert client.failure("VM.add_to_xenstore_data", vm, "vm-data/x", "2") == [
        "MAP_DUPLICATE_KEY",
        "VM",
        "xenstore_data",
        vm,
        "vm-data/x",
    ]
    client("VM.remove_from_xenstore_data", vm, "vm-data/x")
    client("VM.remove_from_xenstore_data", vm, "vm-data/x")
    assert client.get("VM", vm, "xenstore_data") == {}
    for _ in range(2):
        client("VM.add_tags", vm, "blue")
    assert client.get("VM", vm, "tags") == ("blue",)
    client("VM.remove_tags", vm, "blue")
    assert client.get("VM", vm, "tags") == ()


def test_a_task_reports_its_result(slow: World) -> None:
    """The result is the XML of the value, void is empty, a failure is its code and parameters."""
    client = slow.one
    template = client("VM.get_by_name_label", "Debian Bookworm 12")[0]
    task = client("Async.VM.clone", template, "mine")
    slow.finish()
    record = client("task.get_record", task)
    vm = client("VM.get_by_name_label", "mine")[0]
    assert (record["status"], record["result"], record["progress"]) == ("success", f"<value>{vm}</value>", 1.0)
    assert record["allowed_operations"] == ("destroy",)
    task = client("Async.VM.unpause", template)
    record = client("task.get_record", task)
    assert (record["status"], record["error_info"][:2]) == ("failure", ("VM_IS_TEMPLATE", template))
    assert client.failure("task.cancel", task)[0] == "OPERATION_NOT_ALLOWED"
    client("task.destroy", task)
    assert client.failure("task.get_status", task)[0] == "HANDLE_INVALID"


def test_a_destroyed_task_does_not_end_its_operation(slow: World) -> None:
    """The operation goes on without anybody to report to."""
    client = slow.one
    vm = client.vm()
    client("task.destroy", client("Async.VM.start", vm, False, False))
    slow.finish()
    assert client.get("VM", vm, "power_state") == "Running"
    assert client.get("VM", vm, "current_operations") == {}


def test_all_methods_are_listed(client: Client) -> None:
    """`system.listMethods` has messages, their asynchronous forms and the generic ones."""
    methods = set(client("host.list_methods"))
    assert {"VM.start", "Async.VM.start", "VM.get_record", "event.from", "session.login_with_password"} <= methods
    assert "Async.VM.get_record" not in methods


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ("true", 3),
        ('field "name_label" = "pool1-h2"', 1),
        ('not (field "name_label" = "pool1-h2") and field "enabled" = "true"', 2),
        ('field "hostname" = field "name_label"', 3),
        ('field "name__label" = "pool1-h1" or field "name_label" = "pool1-h3"', 2),
    ],
)
def test_records_are_selected_by_expressions(client: Client, expression: str, matches: int) -> None:
    """Fields against texts and each other, with not, and, or."""
    assert len(client("host.get_all_records_where", expression)) == matches


@pytest.mark.parametrize(
    "expression", ["", "field", 'field "nonsense" = "x"', "(" * 200, 'field "uuid" =', "true true"]
)
def test_expressions_that_are_none_are_refused(client: Client, expression: str) -> None:
    """With the expression in the failure."""
    assert client.failure("host.get_all_records_where", expression) == ["INVALID_VALUE", "expr", expression]


def test_messages_to_operators_are_kept_and_removed(client: Client) -> None:
    """By object, by time, and one by one."""
    vm = client.vm()
    uuid = client.get("VM", vm, "uuid")
    first = client("message.create", "TOLD", "3", "VM", uuid, "body")
    assert list(client("message.get", "VM", uuid, "19700101T00:00:00Z")) == [first]
    assert client("message.get_since", "20990101T00:00:00Z") == {}
    assert client("message.get_record", first)["body"] == "body"
    client("message.destroy", first)
    assert client("message.get", "VM", uuid, "19700101T00:00:00Z") == {}
