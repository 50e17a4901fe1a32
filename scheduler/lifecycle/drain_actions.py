"""Actions that empty hosts: plan the next moves, have them carried out, look again.

Problem: emptying a zone takes hours. Servers come and go meanwhile, moves fail, controllers die.

Idea: nothing but the goal is kept: which hosts are to be empty. Each round looks at what is claimed there now, lets the
planner say which servers can move at once, makes each move a task of its own, and waits for these. It ends when nothing
is left but what cannot move, and says why for each.

A hard affinity group moves as one: where its members go is claimed for all of them at once, before the first is asked to
move, since no member may be claimed elsewhere alone. Then each has a task of its own, which finds its target claimed. All
of them move in one wave, whatever the caps. Targets that nobody works on at two looks in a row are those of a controller
that died in between, with another plan: they are let go of.

Invariant: a server is asked to move only if nobody else works on it, a group only if nobody works on any of it. One whose
move as planned failed is asked once more, to wherever there is room; then it is left, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import trio
from sqlalchemy import Connection, func, select

from scheduler.claims.claim import Claim, Role
from scheduler.errors import ClaimStateError, Conflict, KeyReused, KeySpent
from scheduler.hypervisor import Gone, HypervisorError
from scheduler.lifecycle import tasks
from scheduler.lifecycle.machine import Event
from scheduler.lifecycle.requests import move_request_of
from scheduler.lifecycle.tools import Job, Outcome, Tools
from scheduler.placement import reasons
from scheduler.placement.moves import Move, MovePlan
from scheduler.placement.request import Policy, ServerRequest
from scheduler.placement.resources import Zone
from scheduler.records import store, tables
from scheduler.records.types import GroupRecord, ServerRecord, TaskRecord, TaskState, VolumeRecord

POLL_S: Final = 0.25


async def plan_drain(job: Job) -> Outcome:
    """Submit the moves that can run now. ARRIVED when nothing is left to move."""
    data = job.task.data
    hosts = [str(host) for host in data["hosts"]]
    stranded: dict[str, str] = dict(data.get("stranded", {}))
    failed: list[str] = list(data.get("failed", ()))
    for server, reason in (await failures_of(job, [int(child) for child in data.get("children", ())])).items():
        if server in failed:
            stranded[server] = reason
        failed.append(server)
    for pool_id in {job.tools.pools.pool_of_host(host) for host in hosts}:
        await job.tools.pools.look(pool_id, fresh=True)  # whether a host lives decides how its servers leave it
    requests = await requests_on(job.tools, set(hosts), any_zone=bool(data.get("any_zone")))
    left = {server: request for server, request in requests.items() if server not in stranded}
    moved = int(data.get("moved", 0)) + len(data.get("children", ())) - (len(failed) - len(data.get("failed", ())))
    looks = int(data.get("looks", 0)) + 1
    kept: dict[str, object] = {
        "stranded": stranded,
        "children": [],
        "moved": moved,
        "failed": failed,
        "looks": looks,
    }
    if not left:
        return _end(requests, stranded, kept)
    plan = await job.tools.database.block(lambda: job.tools.chooser.plan_evacuation(hosts, left))
    stranded.update(plan.stranded)
    groups, broken, stuck = await _claim_groups(job, plan, looks)
    stranded.update(broken)
    kept["stuck"] = stuck
    children = await job.tools.database.transact(lambda c: _submit(job, c, plan, failed, groups))
    if not children and all(server in stranded for server in left):
        return _end(requests, stranded, kept)
    job.progress(moved / max(1, moved + len(left)))
    return Outcome(data={**kept, "stranded": stranded, "children": children})


def _end(requests: Mapping[str, ServerRequest], stranded: Mapping[str, str], kept: dict[str, object]) -> Outcome:
    reasons = [f"{server}: {reason}" for server, reason in stranded.items() if server in requests]
    if reasons:
        return Outcome(Event.IMPOSSIBLE, f"{len(reasons)} servers cannot move; {'; '.join(reasons)}"[:1000], kept)
    return Outcome(Event.ARRIVED, data=kept)


async def requests_on(tools: Tools, hosts: set[str], *, any_zone: bool) -> dict[str, ServerRequest]:
    """What each server that holds a share of one of these hosts would be asked with today."""
    claims = await tools.database.block(lambda: list(tools.claims.all()))
    lies = {claim.owner: claim.disks[0].sr_id for claim in claims if claim.host is None and claim.disks}
    held = {
        claim.owner: claim
        for claim in claims
        if claim.role is Role.HELD and claim.host is not None and claim.host.host_id in hosts
    }
    return await tools.database.transact(lambda c: _requests(tools, c, held, lies, any_zone))


def _requests(
    tools: Tools, connection: Connection, held: Mapping[str, Claim], lies: Mapping[str, str], any_zone: bool
) -> dict[str, ServerRequest]:
    found: dict[str, ServerRequest] = {}
    for server_id, claim in held.items():
        server = store.find(connection, ServerRecord, server_id)
        if server is None:
            continue
        group = store.find(connection, GroupRecord, server.group_id) if server.group_id else None
        volumes = store.all_of(connection, VolumeRecord, server_id=server_id)
        there = {volume.id: (volume, lies[volume.id]) for volume in volumes if volume.id in lies}
        assert claim.host is not None
        found[server_id] = move_request_of(
            server,
            claim,
            there,
            group,
            copy_disks=_is_live(tools, claim.host.host_id),
            here=_zone_of(tools, claim.host.host_id),
            any_zone=any_zone,
        )
    return found


def _is_live(tools: Tools, host_id: str) -> bool:
    try:
        return tools.pools.host(host_id).live
    except Gone:
        return False


def _zone_of(tools: Tools, host_id: str) -> Zone | None:
    try:
        return tools.pools.zone_of_host(host_id)
    except HypervisorError:
        return None


def together(moves: Sequence[Move]) -> dict[str, list[Move]]:
    """The moves of hard affinity groups of which several members move, by group."""
    found: dict[str, list[Move]] = {}
    for move in moves:
        membership = move.server.request.membership
        if membership is not None and membership.policy is Policy.AFFINITY:
            found.setdefault(membership.group_id, []).append(move)
    return {group_id: members for group_id, members in found.items() if len(members) > 1}


async def _claim_groups(job: Job, plan: MovePlan, looks: int) -> tuple[list[Move], dict[str, str], list[str]]:
    """Claim where the groups of the first wave go; -> the moves of those that could; for those that cannot move as one why
    not, by server; the groups that are claimed elsewhere without a task. A group that somebody works on, or that found its
    room taken, waits for the next look."""
    groups = together(plan.moves)
    first = {id(move) for move in (plan.waves[0] if plan.waves else ())}
    ready: list[Move] = []
    broken: dict[str, str] = {}
    stuck: list[str] = []
    for group_id, moves in groups.items():
        servers = [move.server.request.server_id for move in moves]
        if not any(id(move) in first for move in moves) or await job.tools.database.transact(
            lambda c, servers=servers: any(tasks.open_task(c, server) is not None for server in servers)  # type: ignore[misc]
        ):
            continue
        key = f"task{job.task.id}.{looks}.{group_id}"
        try:
            await job.tools.database.block(
                lambda moves=moves, key=key: job.tools.chooser.book_together(moves, key, guard=job.fenced)  # type: ignore[misc]
            )
        except Conflict as error:
            if error.kind == reasons.GROUP:
                broken.update(dict.fromkeys(servers, f"its group is not on one host: {error}"))
            continue
        except (ClaimStateError, KeySpent, KeyReused):  # one of them is moving already, or was until now
            stuck.append(group_id)
            if group_id in job.task.data.get("stuck", ()):
                await _let_go(job, moves)
            continue
        ready += moves
    return ready, broken, stuck


async def _let_go(job: Job, moves: Sequence[Move]) -> None:
    """Let go of the targets of these servers and of their volumes."""
    owners = [move.server.request.server_id for move in moves]
    owners += [disk.disk_id for move in moves for disk in move.server.request.disks if disk.volume]
    await job.tools.database.block(lambda: job.tools.claims.abort_move(owners, guard=job.fenced))


def _submit(job: Job, connection: Connection, plan: MovePlan, failed: list[str], groups: Sequence[Move]) -> list[int]:
    """A task for each move of the plan's first wave whose server nobody works on, and for those of the groups that have
    their targets."""
    in_groups = {id(move) for moves in together(plan.moves).values() for move in moves}
    alone = [move for move in (plan.waves[0] if plan.waves else ()) if id(move) not in in_groups]
    children: list[int] = []
    for move in (*alone, *groups):
        server_id = move.server.request.server_id
        if tasks.open_task(connection, server_id) is not None:
            continue
        live = _is_live(job.tools, move.server.host_id)
        to_hosts = [] if server_id in failed else [move.to.host_id]
        data = {"to_hosts": to_hosts, "copy_disks": live, "any_zone": bool(job.task.data.get("any_zone"))}
        kind = "migrate" if live else "evacuate"
        task = tasks.submit(connection, kind, server_id, job.task.project, data, job.tools.now_s())
        children.append(task.id)
    return children


async def failures_of(job: Job, children: list[int]) -> dict[str, str]:
    """Server id -> why, for those of these moves that failed."""

    def read(connection: Connection) -> list[TaskRecord]:
        found = [store.find(connection, TaskRecord, child) for child in children]
        return [task for task in found if task is not None and task.state is TaskState.FAILED]

    return {task.subject: task.error for task in await job.tools.database.transact(read)}


async def await_moves(job: Job) -> Outcome:
    """Until the moves that were submitted have ended; where there were none, until something else has changed."""
    children = [int(child) for child in job.task.data.get("children", ())]
    if not children:
        await trio.sleep(4 * POLL_S)
        return Outcome()

    def count(connection: Connection) -> int:
        table = tables.TASKS
        query = select(func.count()).where(table.c.id.in_(children), table.c.state == TaskState.OPEN.value)
        return int(connection.execute(query).scalar_one())

    while await job.tools.database.transact(count):  # noqa: ASYNC110 (another process may be the one that ends them)
        await trio.sleep(POLL_S)
    return Outcome()
