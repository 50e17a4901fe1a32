"""PyPI `XenAPI`, XenServer's own Python binding, on the simulator, used as its documentation and samples use it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import XenAPI

from tests.support.xensim import Xensim, running_xensim

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture(scope="module")
def xensim() -> Iterator[Xensim]:
    """Two pools of three hosts, at a fiftieth of the time that real ones take."""
    with running_xensim("--latency", "0.02", "--seed", "1", "--pools", "2") as running:
        yield running


def login(url: str) -> Any:
    """A session, as every sample begins."""
    session = XenAPI.Session(url, ignore_ssl=True)
    session.xenapi.login_with_password("root", "root", "1.0", "ringstead tests")
    return session


@pytest.fixture
def session(xensim: Xensim) -> Iterator[Any]:
    """A session with the first pool."""
    opened = login(xensim.urls[0])
    yield opened
    opened.xenapi.session.logout()


def wait_for(session: Any, task: str) -> Any:
    """The record of a task that has ended, by events."""
    next_events = getattr(session.xenapi.event, "from")
    token = ""
    while True:
        batch = next_events([f"task/{task}"], token, 30.0)
        token = batch["token"]
        record = session.xenapi.task.get_record(task)
        if record["status"] not in ("pending", "cancelling"):
            return record


def make_vm(session: Any, name: str, host: str) -> tuple[str, str]:
    """(VM, its disk) on a host's own SR, by clone, provision, VDI.create and VBD.create."""
    api = session.xenapi
    template = api.VM.get_by_name_label("Other install media")[0]
    vm = api.VM.clone(template, name)
    api.VM.provision(vm)
    api.VM.set_memory_limits(vm, str(128 * MIB), str(GIB), str(GIB), str(GIB))
    disk = api.VDI.create(
        {
            "SR": local_sr(session, host),
            "name_label": f"{name} disk",
            "name_description": "",
            "virtual_size": str(64 * MIB),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
        }
    )
    api.VBD.create(
        {
            "VM": vm,
            "VDI": disk,
            "userdevice": "0",
            "bootable": True,
            "mode": "RW",
            "type": "Disk",
            "unpluggable": True,
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    network = api.network.get_all()[0]
    api.VIF.create(
        {
            "VM": vm,
            "network": network,
            "device": "0",
            "MAC": "",
            "MTU": "1500",
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    return vm, disk


def local_sr(session: Any, host: str) -> str:
    """The SR on a host's own disk."""
    api = session.xenapi
    own = [api.PBD.get_SR(pbd) for pbd in api.host.get_PBDs(host)]
    return str(next(sr for sr in own if not api.SR.get_shared(sr)))


def test_a_wrong_password_and_a_slave_are_told(xensim: Xensim) -> None:
    """Login failures have the codes that scripts look for; a slave's leads to the master."""
    with pytest.raises(XenAPI.Failure) as caught:
        XenAPI.Session(xensim.urls[0]).xenapi.login_with_password("root", "wrong", "1.0", "tests")
    assert caught.value.details[0] == "SESSION_AUTHENTICATION_FAILED"
    with pytest.raises(XenAPI.Failure) as caught:
        login(xensim.urls[2])
    code, master = caught.value.details
    assert code == "HOST_IS_SLAVE"
    port = xensim.urls[2].rpartition(":")[2]
    assert login(f"http://{master}:{port}").xenapi.pool.get_all()


def test_a_vm_lives_its_life(session: Any) -> None:
    """Cloned, started paused on a chosen host, unpaused, moved by a task, shut down, destroyed with its disk."""
    api = session.xenapi
    hosts = api.host.get_all()
    template = api.VM.get_by_name_label("Debian Bookworm 12")[0]
    vm = api.VM.clone(template, "life")
    api.VM.provision(vm)
    (vbd,) = api.VM.get_VBDs(vm)
    disk = api.VBD.get_VDI(vbd)
    free = int(api.host.compute_free_memory(hosts[1]))
    api.VM.start_on(vm, hosts[1], True, False)
    assert api.VM.get_power_state(vm) == "Paused"
    assert int(api.host.compute_free_memory(hosts[1])) < free
    api.VM.unpause(vm)
    record = wait_for(session, api.Async.VM.pool_migrate(vm, hosts[2], {"live": "true"}))
    assert (record["status"], record["error_info"]) == ("success", [])
    assert api.VM.get_resident_on(vm) == hosts[2]
    assert int(api.host.compute_free_memory(hosts[1])) == free
    with pytest.raises(XenAPI.Failure) as caught:
        api.VM.start(vm, False, False)
    assert caught.value.details == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
    (console,) = api.VM.get_consoles(vm)
    assert api.console.get_location(console).startswith("http://127.0.0.3:")
    api.VM.hard_shutdown(vm)
    api.VM.destroy(vm)
    api.VDI.destroy(disk)


def test_results_have_the_types_that_the_binding_expects(session: Any) -> None:
    """Ints are strings, dates are dates, sets are lists and maps are dicts, references are opaque."""
    api = session.xenapi
    (record,) = [one for one in api.SR.get_all_records().values() if one["name_label"] == "Shared storage"]
    assert isinstance(record["physical_size"], str)
    assert int(record["physical_size"]) > 0
    assert isinstance(record["shared"], bool)
    assert all(pbd.startswith("OpaqueRef:") for pbd in record["PBDs"])
    metrics = api.host_metrics.get_record(api.host.get_metrics(api.host.get_all()[0]))
    assert metrics["last_updated"].value.endswith("Z")
    assert metrics["live"] is True


def test_events_follow_a_vm(session: Any) -> None:
    """From an empty token everything, then what changed, each object once."""
    api = session.xenapi
    next_events = getattr(api.event, "from")
    batch = next_events(["vm"], "", 10.0)
    assert {event["operation"] for event in batch["events"]} == {"add"}
    assert batch["valid_ref_counts"] == {"vm": len(api.VM.get_all())}
    template = api.VM.get_by_name_label("Other install media")[0]
    vm = api.VM.clone(template, "followed")
    api.VM.set_name_description(vm, "twice")
    batch = next_events(["vm"], batch["token"], 10.0)
    mine = [event for event in batch["events"] if event["ref"] == vm]
    assert [(event["class"], event["operation"]) for event in mine] == [("vm", "add")]
    assert mine[0]["snapshot"]["name_description"] == "twice"
    api.VM.destroy(vm)
    batch = next_events(["vm"], batch["token"], 10.0)
    assert ("del", vm) in [(event["operation"], event["ref"]) for event in batch["events"]]


def test_a_task_is_cancelled(session: Any) -> None:
    """A migration that was begun ends as cancelled, and the VM runs where it was."""
    api = session.xenapi
    hosts = api.host.get_all()
    vm, _disk = make_vm(session, "cancelled", hosts[0])
    api.VM.start_on(vm, hosts[0], False, False)
    dest = api.host.migrate_receive(hosts[1], api.network.get_all()[0], {})
    moves = {api.VBD.get_VDI(vbd): local_sr(session, hosts[1]) for vbd in api.VM.get_VBDs(vm)}
    task = api.Async.VM.migrate_send(vm, dest, True, moves, {}, {})
    api.task.cancel(task)
    record = wait_for(session, task)
    assert (record["status"], record["error_info"]) == ("cancelled", ["TASK_CANCELLED", task])
    assert (api.VM.get_power_state(vm), api.VM.get_resident_on(vm)) == ("Running", hosts[0])
    assert api.VM.get_current_operations(vm) == {}


def test_a_vm_moves_to_another_pool(xensim: Xensim, session: Any) -> None:
    """Storage XenMotion between pools as the documentation has it: receive there, check, send here."""
    api = session.xenapi
    other = login(xensim.urls[3])
    there = other.xenapi
    vm, disk = make_vm(session, "traveller", api.host.get_all()[0])
    api.VM.start(vm, False, False)
    uuid = api.VM.get_uuid(vm)
    host = there.host.get_all()[1]
    network = there.network.get_all()[0]
    dest = there.host.migrate_receive(host, network, {})
    vdi_map, vif_map = {disk: local_sr(other, host)}, {api.VM.get_VIFs(vm)[0]: network}
    api.VM.assert_can_migrate(vm, dest, True, vdi_map, vif_map, {})
    record = wait_for(session, api.Async.VM.migrate_send(vm, dest, True, vdi_map, vif_map, {}))
    assert record["status"] == "success"
    arrived = there.VM.get_by_uuid(uuid)
    assert record["result"] == f"<value>{arrived}</value>"
    assert (there.VM.get_power_state(arrived), there.VM.get_resident_on(arrived)) == ("Running", host)
    with pytest.raises(XenAPI.Failure) as caught:
        api.VM.get_record(vm)
    assert caught.value.details == ["HANDLE_INVALID", "VM", vm]


def test_a_session_over_tls() -> None:
    """HTTPS with the certificate verified, and refused where it is not known."""
    with running_xensim("--tls", "--latency", "0") as running:
        with pytest.raises(ssl.SSLCertVerificationError):
            XenAPI.Session(running.urls[0]).xenapi.login_with_password("root", "root", "1.0", "tests")
        assert login(running.urls[0]).xenapi.pool.get_all()
