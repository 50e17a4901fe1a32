"""Actions that level the load of hosts: plan the few moves that matter, have them carried out, look again.

As emptying (`drain_actions`), nothing but the goal is kept: which hosts are to be level. Each round looks at what is claimed
now, lets the planner say which servers to move (`scheduler.placement.rebalance`), and makes the moves of the plan's first
wave tasks of their own.

Nothing is urgent about it, so what may be in somebody's way is left where it is: servers that a task is at work on, that
are neither running nor stopped, that have snapshots (they cannot leave their pool) or that are in a hard affinity group
(it would have to move as one). A server moves at most once in a task, so it ends.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from scheduler.lifecycle import tasks
from scheduler.lifecycle.drain_actions import failures_of, requests_on
from scheduler.lifecycle.machine import Event
from scheduler.lifecycle.tools import Job, Outcome, Tools
from scheduler.placement.moves import MovePlan
from scheduler.placement.request import Policy, ServerRequest
from scheduler.records import store
from scheduler.records.types import ServerRecord, ServerState, SnapshotRecord


async def plan_level(job: Job) -> Outcome:
    """Submit the moves that can run now. ARRIVED when none is left that helps."""
    data = job.task.data
    failures = await failures_of(job, [int(child) for child in data.get("children", ())])
    failed = {**data.get("failed", {}), **failures}
    asked = [*data.get("asked", ())]
    plan = await plan_moves(job.tools, [str(host) for host in data["hosts"]], asked)

    def submit(connection: Connection) -> dict[str, int]:
        children = {}
        for move in plan.waves[0] if plan.waves else ():
            server_id = move.server.request.server_id
            if tasks.open_task(connection, server_id) is None:
                there = {"to_hosts": [move.to.host_id]}
                task = tasks.submit(connection, "migrate", server_id, job.task.project, there, job.tools.now_s())
                children[server_id] = task.id
        return children

    children = await job.tools.database.transact(submit)
    kept = {"failed": failed, "asked": [*asked, *children], "moved": len(asked) - len(failed)}
    kept["children"] = list(children.values())
    if children:
        job.progress(len(asked) / (len(asked) + len(plan.moves)))
        return Outcome(data=kept)
    if failed:
        reasons = "; ".join(f"{server}: {reason}" for server, reason in failed.items())
        return Outcome(Event.IMPOSSIBLE, f"{len(failed)} servers could not move; {reasons}"[:1000], kept)
    return Outcome(Event.ARRIVED, data=kept)


async def plan_moves(tools: Tools, hosts: Sequence[str], but: Collection[str] = ()) -> MovePlan:
    """The moves that would level these hosts now; the servers `but` stay where they are."""
    requests = await requests_on(tools, set(hosts), any_zone=False)
    loose = await tools.database.transact(lambda c: _loose(c, requests, but))
    return await tools.database.block(lambda: tools.chooser.plan_rebalance(hosts, loose))


def _loose(
    connection: Connection, requests: dict[str, ServerRequest], but: Collection[str]
) -> dict[str, ServerRequest]:
    found = {}
    for server_id, request in requests.items():
        server = store.find(connection, ServerRecord, server_id)
        together = request.membership is not None and request.membership.policy is Policy.AFFINITY
        if server is None or together or server_id in but:
            continue
        if server.state not in (ServerState.ACTIVE, ServerState.STOPPED):
            continue
        if store.count_of(connection, SnapshotRecord, server_id=server_id):
            continue
        if tasks.open_task(connection, server_id) is None:
            found[server_id] = request
    return found
