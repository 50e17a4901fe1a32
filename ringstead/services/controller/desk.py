"""What a controller can be asked through its control socket: servers, groups, volumes, flavors, images.

Each operation is named NOUN.VERB and takes the words of the command of that name. What creates a server or volume takes
the `id` that it is to have, too: a client whose controller died while it answered asks again, and gets the same one.

What is wrong with a request comes back as `error`, a sentence, with `code` 2 where the request makes no sense and 1 where
it cannot be done now.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection

from ringstead.processes.control import Answer, Operation
from ringstead.services.controller.views import flavor_view, plain, server_view, task_view, volume_view
from scheduler.errors import RequestError, SchedulerError
from scheduler.hypervisor import HypervisorError, PowerAction
from scheduler.lifecycle import operations, volume_operations
from scheduler.lifecycle.controller import Controller
from scheduler.lifecycle.operations import Desk, NewServer
from scheduler.lifecycle.requests import parse_zone, request_of
from scheduler.lifecycle.tools import ImageLibrary
from scheduler.placement.resources import zone_name
from scheduler.records import store
from scheduler.records.types import (
    FlavorRecord,
    GroupRecord,
    HostRecord,
    ImageRecord,
    PoolRecord,
    ServerRecord,
    SnapshotRecord,
    TaskRecord,
    TaskState,
    VolumeRecord,
)

PLACE_S_MAX: Final = 10.0
"""How long an answer waits for the claim: by then there is room, or none, or a pool that has to be waited for."""
EXTEND_S_MAX: Final = 1.0
WAIT_S_MAX: Final = 20.0
DEFAULT_PROJECT: Final = "default"
Request = Mapping[str, Any]


def guarded(operation: Callable[[Request], Awaitable[Answer]]) -> Operation:
    """An operation whose explained failures are answers."""

    async def guard(request: Request) -> Answer:
        try:
            return await operation(request)
        except (RequestError, store.NoSuchRecord, store.AmbiguousName) as error:
            return {"error": str(error), "code": 2}
        except (SchedulerError, HypervisorError) as error:
            return {"error": str(error), "code": 1}

    return guard


def project_of(request: Request) -> str:
    """The project that a request is about."""
    return str(request.get("project") or DEFAULT_PROJECT)


class ServerDesk:
    """Operations on what servers and volumes are made of."""

    def __init__(self, controller: Controller, images: ImageLibrary) -> None:
        self._controller = controller
        self._images = images

    def operations(self) -> dict[str, Operation]:
        """By name."""
        named = {
            "server.create": self.create,
            "server.list": self.list_servers,
            "server.show": self.show,
            "server.delete": self.delete,
            "server.power": self.power,
            "server.migrate": self.migrate,
            "server.snapshot": self.snapshot,
            "server.snapshot-delete": self.snapshot_delete,
            "server.revert": self.revert,
            "server.console": self.console,
            "server.place": self.place,
            "group.create": self.group_create,
            "group.list": self.group_list,
            "group.delete": self.group_delete,
            "volume.create": self.volume_create,
            "volume.list": self.volume_list,
            "volume.show": self.volume_show,
            "volume.attach": self.volume_attach,
            "volume.detach": self.volume_detach,
            "volume.extend": self.volume_extend,
            "volume.snapshot": self.volume_snapshot,
            "volume.snapshot-delete": self.volume_snapshot_delete,
            "volume.delete": self.volume_delete,
            "flavor.create": self.flavor_create,
            "flavor.list": self.flavor_list,
            "flavor.delete": self.flavor_delete,
            "image.register": self.image_register,
            "image.list": self.image_list,
            "image.delete": self.image_delete,
            "image.capture": self.image_capture,
            "task.wait": self.task_wait,
            "task.list": self.task_list,
        }
        return {name: guarded(operation) for name, operation in named.items()}

    # ------------------------------------------------------------------------------------------------------------- servers

    async def create(self, request: Request) -> Answer:
        """A server."""
        wanted = new_server_of(request)
        self._controller.tools.pools.hosts_offering(wanted.template, wanted.network)

        def work(desk: Desk) -> Answer:
            known = store.find(desk.connection, ServerRecord, wanted.id) if wanted.id else None
            begun = operations.first_task(desk, wanted.id) if known is not None else None
            server, task = (known, begun) if known and begun else operations.create_server(desk, wanted)
            return {"server": server_view(desk.connection, server), "task": task.id}

        answer = await self._controller.request(work)
        await self._place(answer["task"], f"server {wanted.name} is not created")
        return answer

    async def _place(self, task_id: int, complaint: str, within_s: float = PLACE_S_MAX) -> None:
        """Wait for a task to have its claim. NoPlace if it has failed by then, with nothing left of what was not placed."""
        task = await self._controller.await_place(task_id, within_s)
        if task.state is TaskState.FAILED:
            await self._controller.request(lambda desk: operations.withdraw(desk, task))
            raise operations.NoPlace(f"{complaint}: {task.error}")

    async def list_servers(self, request: Request) -> Answer:
        """All, or those of a project, a zone, a host or in a state."""
        project, state = request.get("project"), request.get("state")

        def work(connection: Any) -> Answer:
            zone = asked_zone(connection, request)
            records = store.all_of(connection, ServerRecord, **({"project": project} if project else {}))
            views = [server_view(connection, server) for server in records]
            if zone:
                views = [view for view in views if view["zone"] == zone]
            if state:
                views = [view for view in views if view["state"] == state]
            return {"servers": views}

        return await self._controller.read(work)

    async def show(self, request: Request) -> Answer:
        """One, with its snapshots."""

        def work(connection: Any) -> Answer:
            server = store.named(connection, ServerRecord, request["name"], str(request.get("project") or ""))
            snapshots = store.all_of(connection, SnapshotRecord, server_id=server.id)
            return {"server": {**server_view(connection, server), "snapshots": [plain(each) for each in snapshots]}}

        return await self._controller.read(work)

    async def _on_server(self, work: Callable[[Desk], tuple[ServerRecord, TaskRecord]]) -> Answer:
        def carry_out(desk: Desk) -> Answer:
            server, task = work(desk)
            current = store.find(desk.connection, ServerRecord, server.id) or server
            return {"server": server_view(desk.connection, current), "task": task.id}

        return await self._controller.request(carry_out)

    async def delete(self, request: Request) -> Answer:
        """Delete it."""
        return await self._on_server(lambda d: operations.delete_server(d, request["name"], project_of(request)))

    async def power(self, request: Request) -> Answer:
        """Start, stop and so on; `action` is a PowerAction's name."""
        action = PowerAction[request["action"]]
        return await self._on_server(lambda d: operations.power(d, request["name"], project_of(request), action))

    async def migrate(self, request: Request) -> Answer:
        """To a host, a zone, or anywhere."""
        host, zone = str(request.get("host") or ""), str(request.get("zone") or "")

        def work(desk: Desk) -> tuple[ServerRecord, TaskRecord]:
            hosts = [store.named(desk.connection, HostRecord, host).id] if host else []
            return operations.migrate_server(desk, request["name"], project_of(request), hosts, zone)

        answer = await self._on_server(work)
        await self._place(answer["task"], f"server {answer['server']['name']} stays where it is")
        return answer

    async def snapshot(self, request: Request) -> Answer:
        """Keep its disks."""

        def work(desk: Desk) -> tuple[ServerRecord, TaskRecord]:
            server, task, _ = operations.snapshot_server(
                desk, request["name"], project_of(request), request["snapshot"]
            )
            return server, task

        return await self._on_server(work)

    async def snapshot_delete(self, request: Request) -> Answer:
        """Remove a snapshot."""
        project, snapshot = project_of(request), request["snapshot"]
        return await self._on_server(lambda d: operations.delete_snapshot(d, request["name"], project, snapshot))

    async def revert(self, request: Request) -> Answer:
        """Go back to a snapshot."""
        project, snapshot = project_of(request), request["snapshot"]
        return await self._on_server(lambda d: operations.revert_server(d, request["name"], project, snapshot))

    async def console(self, request: Request) -> Answer:
        """Where its console is."""

        def find(connection: Any) -> ServerRecord:
            return store.named(connection, ServerRecord, request["name"], project_of(request))

        server = await self._controller.read(find)
        if not server.pool_id:
            raise operations.WrongStateForThis(f"server {server.name} is {server.state.value}: it has no console")
        url = await self._controller.tools.pools.hypervisor(server.pool_id).console_url(server.id)
        return {"url": url}

    async def place(self, request: Request) -> Answer:
        """Where a server would go, and why not elsewhere. Nothing is claimed."""
        wanted = new_server_of({**request, "name": request.get("name") or "what-if"})
        offering = self._controller.tools.pools.hosts_offering(wanted.template, wanted.network)

        def work(desk: Desk) -> Any:
            server = operations.new_server(desk, wanted)
            group = store.find(desk.connection, GroupRecord, server.group_id) if server.group_id else None
            volumes = [store.named(desk.connection, VolumeRecord, name, wanted.project) for name in wanted.volumes]
            return request_of(server, volumes, group, hosts=offering)

        asked = await self._controller.request(work)
        found = await self._controller.tools.database.block(lambda: self._controller.chooser.explain(asked))
        names = {host.host_id: host for host in self._controller.chooser.hosts()}
        placement = found.placement
        return {
            "chosen": None if placement is None else names[placement.chosen.host_id].name,
            "chosen_id": None if placement is None else placement.chosen.host_id,
            "disks": [] if placement is None else [{"id": d.disk_id, "sr": d.sr_id} for d in placement.chosen.disks],
            "alternates": [] if placement is None else [names[c.host_id].name for c in placement.alternates],
            "hosts": [
                {
                    "host": names[verdict.host_id].name,
                    "host_id": verdict.host_id,
                    "zone": "r{}z{}".format(*names[verdict.host_id].zone),
                    "verdict": verdict.kind,
                    "reason": verdict.reason,
                    "score": verdict.score,
                    "weights": dict(verdict.weights),
                }
                for verdict in found.verdicts
            ],
        }

    # -------------------------------------------------------------------------------------------------------------- groups

    async def group_create(self, request: Request) -> Answer:
        """A server group."""
        return await self._controller.request(
            lambda d: {
                "group": plain(operations.create_group(d, request["name"], project_of(request), request["policy"]))
            }
        )

    async def group_list(self, request: Request) -> Answer:
        """All, with their members."""

        def work(connection: Any) -> Answer:
            groups = []
            for group in store.all_of(connection, GroupRecord):
                members = store.all_of(connection, ServerRecord, group_id=group.id)
                views = [server_view(connection, server) for server in members]
                keep = ("id", "name", "state", "host", "zone")
                groups.append({**plain(group), "servers": [{key: view[key] for key in keep} for view in views]})
            return {"groups": groups}

        return await self._controller.read(work)

    async def group_delete(self, request: Request) -> Answer:
        """An empty one."""
        return await self._controller.request(
            lambda d: {"group": plain(operations.delete_group(d, request["name"], project_of(request)))}
        )

    # ------------------------------------------------------------------------------------------------------------- volumes

    async def _on_volume(self, work: Callable[[Desk], tuple[VolumeRecord, TaskRecord]]) -> Answer:
        def carry_out(desk: Desk) -> Answer:
            volume, task = work(desk)
            return {"volume": volume_view(desk.connection, volume), "task": task.id}

        return await self._controller.request(carry_out)

    async def volume_create(self, request: Request) -> Answer:
        """A volume."""
        id_ = operations.check_id(str(request.get("id") or ""))

        def work(d: Desk) -> tuple[VolumeRecord, TaskRecord]:
            known = store.find(d.connection, VolumeRecord, id_) if id_ else None
            begun = operations.first_task(d, id_) if known is not None else None
            if known is not None and begun is not None:
                return known, begun
            return volume_operations.create_volume(
                d,
                request["name"],
                project_of(request),
                _disk_bytes(request, "size_bytes"),
                zone=str(request.get("zone") or ""),
                volume_type=str(request.get("type") or ""),
                image=str(request.get("image") or ""),
                copied=str(request.get("source") or ""),
                near=str(request.get("near") or ""),
                id_=id_,
            )

        answer = await self._on_volume(work)
        await self._place(answer["task"], f"volume {answer['volume']['name']} is not created")
        return answer

    async def volume_list(self, request: Request) -> Answer:
        """All, or those of a project or in a zone."""
        project = request.get("project")

        def work(connection: Any) -> Answer:
            zone = asked_zone(connection, request)
            records = store.all_of(connection, VolumeRecord, **({"project": project} if project else {}))
            views = [volume_view(connection, volume) for volume in records]
            return {"volumes": [view for view in views if zone in ("", view["zone"])]}

        return await self._controller.read(work)

    async def volume_show(self, request: Request) -> Answer:
        """One."""

        def work(connection: Any) -> Answer:
            volume = store.named(connection, VolumeRecord, request["name"], str(request.get("project") or ""))
            return {"volume": volume_view(connection, volume)}

        return await self._controller.read(work)

    async def volume_attach(self, request: Request) -> Answer:
        """Into a server."""
        project, read_only = project_of(request), bool(request.get("read_only"))
        return await self._on_volume(
            lambda d: volume_operations.attach_volume(
                d, request["name"], project, request["server"], read_only=read_only
            )
        )

    async def volume_detach(self, request: Request) -> Answer:
        """Out of the server that has it."""
        return await self._on_volume(lambda d: volume_operations.detach_volume(d, request["name"], project_of(request)))

    async def volume_extend(self, request: Request) -> Answer:
        """Grow it."""
        project, size = project_of(request), int(request["size_bytes"])
        answer = await self._on_volume(lambda d: volume_operations.extend_volume(d, request["name"], project, size))
        await self._place(answer["task"], f"volume {answer['volume']['name']} stays as it is", EXTEND_S_MAX)
        return answer

    async def volume_snapshot(self, request: Request) -> Answer:
        """Keep it as it is."""
        project, snapshot = project_of(request), request["snapshot"]
        return await self._on_volume(lambda d: volume_operations.snapshot_volume(d, request["name"], project, snapshot))

    async def volume_snapshot_delete(self, request: Request) -> Answer:
        """Remove one of its snapshots."""
        project, snapshot = project_of(request), request["snapshot"]
        return await self._on_volume(lambda d: volume_operations.delete_snapshot(d, request["name"], project, snapshot))

    async def volume_delete(self, request: Request) -> Answer:
        """Delete it, with its snapshots."""
        return await self._on_volume(lambda d: volume_operations.delete_volume(d, request["name"], project_of(request)))

    # -------------------------------------------------------------------------------------------------- flavors and images

    async def flavor_create(self, request: Request) -> Answer:
        """A flavor."""
        return await self._controller.request(
            lambda d: {
                "flavor": flavor_view(
                    volume_operations.create_flavor(
                        d,
                        request["name"],
                        int(request["memory_mib"]),
                        int(request["vcpus"]),
                        int(request["disk_bytes"]),
                        tuple(request.get("required_traits") or ()),
                        tuple(request.get("forbidden_traits") or ()),
                    )
                )
            }
        )

    async def flavor_list(self, request: Request) -> Answer:
        """All."""
        return await self._controller.read(
            lambda c: {"flavors": [flavor_view(flavor) for flavor in store.all_of(c, FlavorRecord)]}
        )

    async def flavor_delete(self, request: Request) -> Answer:
        """Servers keep the sizes that they were made with."""

        def work(desk: Desk) -> Answer:
            flavor = store.named(desk.connection, FlavorRecord, request["name"])
            store.remove(desk.connection, FlavorRecord, flavor.id)
            return {"flavor": flavor_view(flavor)}

        return await self._controller.request(work)

    async def image_register(self, request: Request) -> Answer:
        """An image whose object the command has stored."""
        return await self._controller.request(
            lambda d: {
                "image": plain(
                    volume_operations.register_image(
                        d,
                        request["name"],
                        request["format"],
                        int(request["size_bytes"]),
                        int(request["disk_bytes"]),
                        request["object"],
                        request["checksum"],
                    )
                )
            }
        )

    async def image_list(self, request: Request) -> Answer:
        """All."""
        return await self._controller.read(lambda c: {"images": [plain(i) for i in store.all_of(c, ImageRecord)]})

    async def image_delete(self, request: Request) -> Answer:
        """The record first: an object without a record takes room, a record without an object breaks builds."""
        image = await self._controller.request(lambda d: volume_operations.remove_image(d, request["name"]))
        await self._images.delete(image.object_name)
        return {"image": plain(image)}

    async def image_capture(self, request: Request) -> Answer:
        """From a server's disk."""
        object_name = f"image-{self._controller.tools.new_id()}"

        def work(desk: Desk) -> Answer:
            image, task = operations.capture_image(
                desk, request["server"], project_of(request), request["name"], request["format"], object_name
            )
            return {"image": plain(image), "task": task.id}

        return await self._controller.request(work)

    # --------------------------------------------------------------------------------------------------------------- tasks

    async def task_wait(self, request: Request) -> Answer:
        """The task, as soon as it has ended, or after `within_s`."""
        within_s = min(WAIT_S_MAX, max(0.0, float(request.get("within_s", 0.0))))
        task = await self._controller.await_task(int(request["task"]), within_s)
        stranded = task.data.get("stranded") or {}
        return {"task": {**task_view(task), "moved": task.data.get("moved", 0), "stranded": stranded}}

    async def task_list(self, request: Request) -> Answer:
        """What is open; with `all`, also what has ended."""
        where = {} if request.get("all") else {"state": TaskState.OPEN}
        return await self._controller.read(
            lambda c: {"tasks": [task_view(task) for task in store.all_of(c, TaskRecord, **where)]}
        )


def _disk_bytes(request: Request, field: str) -> int:
    """The size that is asked for; 0 where none is, so that a disk of 0 bytes is refused here. RequestError."""
    asked = request.get(field)
    if asked is None:
        return 0
    return int(asked) or operations.check_disk_bytes(0)


def asked_zone(connection: Connection, request: Request, key: str = "zone") -> str:
    """The zone that a request names, as it is written everywhere (`r1z2`); empty for none. RequestError where no pool is."""
    text = str(request.get(key) or "")
    zone = parse_zone(text)
    if zone is None:
        return ""
    known = sorted({(pool.region, pool.zone) for pool in store.all_of(connection, PoolRecord)})
    if zone not in known:
        listed = ", ".join(zone_name(each) for each in known) or "none: add a pool first"
        raise RequestError(f"there is no availability zone {text!r}; there are {listed}")
    return zone_name(zone)


def new_server_of(request: Request) -> NewServer:
    """What a request for a server says. RequestError."""
    if not request.get("flavor"):
        raise RequestError("a server needs a flavor")
    return NewServer(
        name=str(request["name"]),
        project=project_of(request),
        flavor=str(request["flavor"]),
        image=str(request.get("image") or ""),
        template=str(request.get("template") or ""),
        zone=str(request.get("zone") or ""),
        group=str(request.get("group") or ""),
        network=str(request.get("network") or ""),
        volumes=tuple(request.get("volumes") or ()),
        disk_bytes=_disk_bytes(request, "disk_bytes"),
        same_host_as=tuple(request.get("same_host_as") or ()),
        different_host_from=tuple(request.get("different_host_from") or ()),
        required_traits=tuple(request.get("required_traits") or ()),
        forbidden_traits=tuple(request.get("forbidden_traits") or ()),
        stopped=bool(request.get("stopped")),
        id=operations.check_id(str(request.get("id") or "")),
    )
