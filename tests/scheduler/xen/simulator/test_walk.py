"""A random walk over two pools: whatever is called, in whatever order, cancelled or cut short by a host's death, what a
pool promises holds.

Invariants tested, after every step: no host promises more memory than it has, and its guests have no more; no SR holds
more than its size; an SR's figures are the sum of its disks; each VDI has its bytes and no bytes are without one; relations
agree in both directions; a VM has a host exactly while it has a domain; `allowed_operations` is what is accepted, and what
it does not list is refused; operations stand in `current_operations` only while they are under way. When all has come to
rest nothing is in progress, and nothing is reserved.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.xen.simulator import memory, storage
from scheduler.xen.simulator.allowed import refusal
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.layout import HostPlan
from scheduler.xen.simulator.schema import INVERSES
from scheduler.xen.simulator.tables.words import ENUMS
from tests.scheduler.xen.simulator.world import GIB, Client, World

REFUSALS_OF_STATE = {
    "VM_BAD_POWER_STATE",
    "OTHER_OPERATION_IN_PROGRESS",
    "VM_IS_TEMPLATE",
    "VM_IS_SNAPSHOT",
    "VM_LACKS_FEATURE",
    "PROVISION_ONLY_ALLOWED_ON_TEMPLATE",
    "REVERT_ONLY_ALLOWED_ON_SNAPSHOT",
    "OPERATION_BLOCKED",
}
"""Codes with which a VM refuses by its own state; others are about hosts, memory, disks."""
CALLS = {
    "start": lambda walk, client, vm: ("VM.start", vm, False, False),
    "start_on": lambda walk, client, vm: ("VM.start_on", vm, walk.any_host(client), walk.flip(), False),
    "pause": lambda walk, client, vm: ("VM.pause", vm),
    "unpause": lambda walk, client, vm: ("VM.unpause", vm),
    "clean_shutdown": lambda walk, client, vm: ("VM.clean_shutdown", vm),
    "hard_shutdown": lambda walk, client, vm: ("VM.hard_shutdown", vm),
    "clean_reboot": lambda walk, client, vm: ("VM.clean_reboot", vm),
    "hard_reboot": lambda walk, client, vm: ("VM.hard_reboot", vm),
    "suspend": lambda walk, client, vm: ("VM.suspend", vm),
    "resume": lambda walk, client, vm: ("VM.resume", vm, False, False),
    "snapshot": lambda walk, client, vm: ("VM.snapshot", vm, "snapshot"),
    "checkpoint": lambda walk, client, vm: ("VM.checkpoint", vm, "checkpoint"),
    "revert": lambda walk, client, vm: ("VM.revert", vm),
    "clone": lambda walk, client, vm: ("VM.clone", vm, "clone"),
    "destroy": lambda walk, client, vm: ("VM.destroy", vm),
    "pool_migrate": lambda walk, client, vm: ("VM.pool_migrate", vm, walk.any_host(client), {}),
    "power_state_reset": lambda walk, client, vm: ("VM.power_state_reset", vm),
}
OPERATIONS = sorted(CALLS)
WALKS = int(os.environ.get("RINGSTEAD_XENSIM_WALKS", "25"))


class Walk(RuleBasedStateMachine):
    """Two pools of two small hosts with thick local SRs."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        plan = HostPlan(memory_bytes=8 * GIB, local_bytes=3 * GIB, local_type="lvm", cpus=4)
        self.world = World(Path(self.folder.name), pools=2, hosts=2, host=plan, latency=1.0, shared_bytes=4 * GIB)
        self.draw: Any = None
        for client in self.world.clients:
            client.vm("first", sr=client.local_sr(client.hosts()[0]), memory_bytes=2 * GIB)

    def teardown(self) -> None:
        self.world.finish()
        for pool in self.world.site.pools:
            for row in self.rows(pool.database, "VM", "VDI", "VBD", "VIF", "SR", "host", "network"):
                assert row["current_operations"] == {}, row
            for vm in pool.database.rows("VM"):
                assert vm["scheduled_to_be_resident_on"] == "OpaqueRef:NULL"
            assert pool.storage_migrations == 0
            assert pool.job_of_operation == {}
            assert all(task["status"] not in ("pending", "cancelling") for task in pool.database.rows("task"))
        self.the_books_balance()
        self.folder.cleanup()

    @staticmethod
    def rows(database: Any, *classes: str) -> list[Row]:
        return [row for cls in classes for row in database.rows(cls)]

    def any_host(self, client: Client) -> str:
        return str(self.draw(st.sampled_from(client.hosts())))

    def flip(self) -> bool:
        return bool(self.draw(st.booleans()))

    def any_vm(self, client: Client) -> Row | None:
        vms = [
            vm
            for vm in client.pool.database.rows("VM")
            if not vm["is_control_domain"] and not vm["is_default_template"]
        ]
        return self.draw(st.sampled_from(vms)) if vms else None

    @rule(data=st.data(), index=st.integers(0, 1), gib=st.integers(1, 4), shared=st.booleans())
    def make(self, data: st.DataObject, index: int, gib: int, shared: bool) -> None:
        """A VM with a disk, on the shared SR or on a host's own, if there is room for it."""
        self.draw = data.draw
        client = self.world.clients[index]
        sr = client.shared_sr() if shared else client.local_sr(self.any_host(client))
        if client.failure("VDI.create", {"SR": sr, "virtual_size": str(300 << 20), "name_label": "spare"}) == []:
            client.vm("vm", sr=client.shared_sr(), memory_bytes=gib * GIB)

    @rule(data=st.data(), index=st.integers(0, 1), operation=st.sampled_from(OPERATIONS))
    def call(self, data: st.DataObject, index: int, operation: str) -> None:
        """An operation that is not allowed is refused; one that is, is not refused for the VM's state."""
        self.draw = data.draw
        client = self.world.clients[index]
        vm = self.any_vm(client)
        if vm is None:
            return
        allowed = operation in vm["allowed_operations"]
        method, *arguments = CALLS[operation](self, client, vm.ref)
        task = client(f"Async.{method}", *arguments)
        error = client.get("task", task, "error_info")
        if not allowed and operation != "power_state_reset":
            assert client.get("task", task, "status") == "failure", (operation, vm["power_state"])
        elif error:
            own = error[1] == vm.ref if len(error) > 1 else False
            assert not (own and error[0] in REFUSALS_OF_STATE), (operation, error)

    @rule(data=st.data(), here=st.integers(0, 1), there=st.integers(0, 1))
    def move(self, data: st.DataObject, here: int, there: int) -> None:
        """A VM and its disks, to a host's own SR, in this pool or the other."""
        self.draw = data.draw
        client, target = self.world.clients[here], self.world.clients[there]
        vm = self.any_vm(client)
        host = self.any_host(target)
        failed = target.failure("host.migrate_receive", host, target.network(), {})
        if vm is None or failed:
            return
        dest = target("host.migrate_receive", host, target.network(), {})
        disks = [client.get("VBD", vbd, "VDI") for vbd in vm["VBDs"]]
        vdi_map = {vdi: target.local_sr(host) for vdi in disks if vdi != "OpaqueRef:NULL"}
        vif_map = {vif: target.network() for vif in vm["VIFs"]}
        client("Async.VM.migrate_send", vm.ref, dest, True, vdi_map, vif_map, {})

    @rule(data=st.data(), index=st.integers(0, 1), plug=st.booleans())
    def hotplug(self, data: st.DataObject, index: int, plug: bool) -> None:
        """Attach or detach one of a VM's disks; or give it one more."""
        self.draw = data.draw
        client = self.world.clients[index]
        vm = self.any_vm(client)
        if vm is None or vm["is_a_snapshot"]:
            return
        spare = [vdi for vdi in client.pool.database.rows("VDI") if vdi["name_label"] == "spare" and not vdi["VBDs"]]
        if spare and len(vm["VBDs"]) < 3:
            client.vbd(vm.ref, spare[0].ref)
        if vm["VBDs"]:
            vbd = client.pool.database.get("VBD", data.draw(st.sampled_from(vm["VBDs"])))
            operation = "plug" if plug else "unplug"
            allowed = operation in vbd["allowed_operations"]
            failure = client.failure(f"Async.VBD.{operation}", vbd.ref)
            assert failure == []
            task = client.pool.database.rows("task")[-1]
            if not allowed:
                assert task["status"] == "failure"

    @rule(data=st.data(), index=st.integers(0, 1))
    def cancel(self, data: st.DataObject, index: int) -> None:
        """Any task that is under way."""
        client = self.world.clients[index]
        pending = [task for task in client.pool.database.rows("task") if task["status"] == "pending"]
        if pending:
            task = data.draw(st.sampled_from(pending))
            if client.failure("task.cancel", task.ref) == []:
                assert task["status"] in ("cancelled", "cancelling", "failure")

    @rule(data=st.data(), index=st.integers(0, 1), back=st.booleans())
    def die(self, data: st.DataObject, index: int, back: bool) -> None:
        """A host dies, or comes back."""
        client = self.world.clients[index]
        host = client.pool.database.rows("host")[1]
        if back:
            self.world.site.revive(client.pool, host)
        else:
            self.world.site.kill(client.pool, host)

    @rule(index=st.integers(0, 1), enable=st.booleans())
    def disable(self, index: int, enable: bool) -> None:
        """A host takes no more VMs, or takes them again."""
        client = self.world.clients[index]
        client.failure("Async.host.enable" if enable else "Async.host.disable", client.hosts()[0])

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 4.0, 15.0, 700.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.world.advance(seconds)

    @invariant()
    def the_books_balance(self) -> None:
        """Memory, bytes, relations and operations."""
        for pool in self.world.site.pools:
            for host in pool.database.rows("host"):
                assert memory.free_bytes(pool, host) >= 0
                guests = [vm for vm in pool.database.all("VM", host["resident_VMs"]) if not vm["is_control_domain"]]
                had = sum(vm["memory_target"] + memory.overhead_bytes(vm) for vm in guests)
                assert had <= memory.total_bytes(pool, host)
            for sr in pool.database.rows("SR"):
                vdis = pool.database.all("VDI", sr["VDIs"])
                assert sr["virtual_allocation"] == sum(vdi["virtual_size"] for vdi in vdis)
                assert sr["physical_utilisation"] == sum(vdi["physical_utilisation"] for vdi in vdis)
                assert sr["physical_utilisation"] <= sr["physical_size"]
        keys = [storage.key_of(vdi) for pool in self.world.site.pools for vdi in pool.database.rows("VDI")]
        assert sorted(keys) == self.world.disks.stored()

    @invariant()
    def records_agree(self) -> None:
        """Relations in both directions, hosts and domains, operations allowed and under way."""
        for pool in self.world.site.pools:
            database = pool.database
            for cls, fields in INVERSES.items():
                for field, (parent, inverse) in fields.items():
                    for row in database.rows(cls):
                        refs = row[field] if isinstance(row[field], tuple) else (row[field],)
                        for owner in database.all(parent, refs):
                            assert row.ref in owner[inverse]
                    for owner in database.rows(parent):
                        for row in database.all(cls, owner[inverse]):
                            assert owner.ref in row[field]
                        assert len(database.all(cls, owner[inverse])) == len(owner[inverse])
            for vm in database.rows("VM"):
                domain = vm["power_state"] in ("Running", "Paused")
                assert domain == (database.find("host", vm["resident_on"]) is not None)
                for vbd in database.all("VBD", vm["VBDs"]):
                    assert domain or not vbd["currently_attached"]
            words = {
                "VM": "vm_operations",
                "VDI": "vdi_operations",
                "VBD": "vbd_operations",
                "task": "task_allowed_operations",
            }
            for cls, enum in words.items():
                for row in database.rows(cls):
                    accepted = tuple(word for word in ENUMS[enum] if refusal(pool, row, word) is None)
                    assert row["allowed_operations"] == accepted, row
            for row in self.rows(database, "VM", "VDI", "VBD", "VIF", "host"):
                for reference in row["current_operations"]:
                    assert any(reference.rstrip("+") in each.job_of_operation for each in self.world.site.pools), row


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=WALKS,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
