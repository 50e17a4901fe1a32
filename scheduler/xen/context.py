"""What the verbs of one pool share: its session, tasks, picture, and the look-ups by Ringstead's ids.

`find_*` answer None for what is not there; the others raise, so that a verb reads as a list of what it needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from scheduler.hypervisor import Gone, NextSr, Refused, Unreachable
from scheduler.xen import tags
from scheduler.xen.errors import NoAnswer
from scheduler.xen.facts import attached_hosts, is_arriving, refs, text, uuid_of
from scheduler.xen.follower import Follower
from scheduler.xen.picture import Picture
from scheduler.xen.session import PoolSession
from scheduler.xen.tags import Record
from scheduler.xen.tasks import Tasks

Result = TypeVar("Result")
QUIET_S_MAX = 120.0
"""How long to wait for an operation that is under way on an object before its outcome is judged."""
QUIET_POLL_S = 0.5


class Context:
    """One pool, for the verbs on it."""

    def __init__(self, session: PoolSession, follower: Follower, cluster: str) -> None:
        self.session = session
        self.follower = follower
        self.cluster = cluster
        self.tasks = Tasks(session, follower.wait_for_task)
        self.call = session.call
        self.task = self.tasks.run
        self.now = follower.now

    @property
    def name(self) -> str:
        """The pool's, for messages."""
        return self.session.settings.name

    def vms_of(self, picture: Picture, server_id: str) -> list[tuple[str, Record]]:
        """All VMs of a server, unfinished ones too, the latest build first. More than one only after a crash."""
        found = [
            (ref, vm)
            for ref, vm in picture.table("VM").items()
            if not tags.is_snapshot(vm)
            and tags.server_of(vm, self.cluster) == server_id
            and not is_arriving(picture, vm)
        ]
        found.sort(
            key=lambda item: (not tags.is_unfinished(item[1], self.cluster), tags.build_of(item[1], self.cluster))
        )
        return found[::-1]

    def vm(self, picture: Picture, server_id: str) -> tuple[str, Record]:
        """A server's whole VM. Raises Gone."""
        for ref, vm in self.vms_of(picture, server_id):
            if not tags.is_unfinished(vm, self.cluster):
                return ref, vm
        raise Gone(f"pool {self.name}: server {server_id} is not here")

    def snapshots_of(self, picture: Picture, server_id: str) -> list[tuple[str, Record]]:
        """The snapshots of a server, all of them, those that others made of it included."""
        return [
            (ref, vm)
            for ref, vm in picture.table("VM").items()
            if tags.is_snapshot(vm) and tags.server_of(vm, self.cluster) == server_id
        ]

    def find_disk(self, picture: Picture, disk_id: str) -> tuple[str, Record] | None:
        """A disk, whole or not; a whole one first, and one that is in a VM before its copy that is being made by a
        move."""
        found = [(ref, vdi) for ref, vdi in picture.table("VDI").items() if tags.disk_of(vdi, self.cluster) == disk_id]
        found.sort(key=lambda item: (tags.is_unfinished(item[1], self.cluster), not refs(item[1], "VBDs")))
        return found[0] if found else None

    def disk(self, picture: Picture, disk_id: str) -> tuple[str, Record]:
        """A whole disk. Raises Gone."""
        found = self.find_disk(picture, disk_id)
        if found is None or tags.is_unfinished(found[1], self.cluster):
            raise Gone(f"pool {self.name}: disk {disk_id} is not here")
        return found

    def by_uuid(self, picture: Picture, class_name: str, uuid: str) -> tuple[str, Record]:
        """A host or SR by its uuid. Raises Gone."""
        for ref, record in picture.table(class_name).items():
            if text(record, "uuid") == uuid:
                return ref, record
        raise Gone(f"pool {self.name}: {class_name} {uuid} is not here")

    def network(self, picture: Picture, uuid: str) -> str:
        """A network's reference. Raises Refused: networks are settings, so somebody has to correct them."""
        try:
            return self.by_uuid(picture, "network", uuid)[0]
        except Gone as error:
            raise Refused(str(error)) from None

    def sr_at(self, picture: Picture, sr_uuid: str, host_ref: str) -> str:
        """An SR that a host reaches. Raises Gone, NextSr."""
        ref, sr = self.by_uuid(picture, "SR", sr_uuid)
        reached = attached_hosts(picture, sr)
        if host_ref and host_ref not in reached:
            host = uuid_of(picture, "host", host_ref)
            raise NextSr(f"pool {self.name}: host {host} does not reach SR {text(sr, 'name_label')} ({sr_uuid})")
        if not reached:
            raise NextSr(f"pool {self.name}: no host has SR {text(sr, 'name_label')} ({sr_uuid}) plugged")
        return ref

    async def settle(
        self,
        class_name: str,
        ref: str,
        act: Callable[[], Awaitable[Result]],
        done: Callable[[Record], bool],
    ) -> None:
        """Act on an object until it is `done`, looking before repeating when no answer came.

        Raises what `act` raises; NoAnswer if after two attempts nobody knows.
        """
        problem: Unreachable | None = None
        for _ in range(2):
            try:
                await act()
            except NoAnswer as error:
                problem = error
            else:
                return
            if done(await self.quiet(class_name, ref)):
                return
        assert problem is not None
        raise problem

    async def quiet(self, class_name: str, ref: str) -> Record:
        """An object's record once nothing is going on with it (or after QUIET_S_MAX). Raises Gone, Unreachable."""
        deadline = trio.current_time() + QUIET_S_MAX
        while True:
            try:
                record: Record = await self.call(f"{class_name}.get_record", ref)
                if not record.get("current_operations") or trio.current_time() > deadline:
                    return record
            except Unreachable:
                if trio.current_time() > deadline:
                    raise
            await trio.sleep(QUIET_POLL_S)

    async def put_tags(self, class_name: str, ref: str, wanted: dict[str, str], *, drop: tuple[str, ...] = ()) -> None:
        """Write tags into an `other_config`, leaving what other tools keep there. Writes nothing that is there
        already."""
        now = await self.call(f"{class_name}.get_other_config", ref)
        config = {str(key): str(value) for key, value in now.items()} if isinstance(now, dict) else {}
        for key in (*drop, *wanted):
            if key in config and config[key] != wanted.get(key):
                await self._remove_tag(class_name, ref, key)
                del config[key]
        for key, value in wanted.items():
            if key not in config:
                try:
                    await self.call(f"{class_name}.add_to_other_config", ref, key, value)
                except NoAnswer:
                    await self._remove_tag(class_name, ref, key)
                    await self.call(f"{class_name}.add_to_other_config", ref, key, value)

    async def _remove_tag(self, class_name: str, ref: str, key: str) -> None:
        """Removing what is not there is no error in XenAPI, so this can be said twice."""
        try:
            await self.call(f"{class_name}.remove_from_other_config", ref, key)
        except NoAnswer:
            await self.call(f"{class_name}.remove_from_other_config", ref, key)
