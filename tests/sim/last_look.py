"""The last look: what every proxy says of everything, once all has healed.

Objects must be what the model allows when nothing is degraded any more, the same by every proxy; listings hold exactly what
is there, and totals are exact. What listings and totals say may be late, so that is `Unsettled`; a wrong object is a
Violation at once. What has an end is waited for: the expirer must have been there. A container that was deleted has nothing
in it.
"""

from __future__ import annotations

from proxy.model import ListQuery, NoSuchContainer, NoSuchObject, ObjectInfo
from proxy.store import ObjectStore
from tests.sim.bodies import read_all, seen
from tests.sim.cluster import Proxy, SimCluster
from tests.sim.model import NEVER, Seen, settled
from tests.sim.workload import ACCOUNT, Workload
from tests.sim.world import Violation


class Unsettled(Violation):
    """A listing or a total is not what it should be in the end, and may be yet."""


async def check_healed(cluster: SimCluster, workload: Workload) -> None:
    """Look. Raises Violation, Unsettled."""
    now_s = cluster.world.now_s
    for register in workload.names.values():
        end_s = max((write.end_s for write in register.writes if write.end_s < NEVER), default=0.0)
        if now_s <= end_s + register.skew_s:
            raise Unsettled(f"{register.key} has an end, and by some clock that is not yet")
    answers = []
    for number in sorted(cluster.proxies):
        proxy = cluster.proxies[number]
        found: dict[str, Seen] = {}
        for key in sorted(workload.names):
            found[key] = await _final(workload, proxy, key)
        answers.append(found)
        await _check_listings(workload, proxy, found)
    settled(workload.names, answers, cluster.world.now_s)


async def _final(workload: Workload, proxy: Proxy, key: str) -> Seen:
    container, _, name = key.encode().partition(b"/")

    async def get(store: ObjectStore) -> tuple[ObjectInfo, bytes]:
        opened = await store.open_object(ACCOUNT, container, name)
        return opened.info, await read_all(opened)

    outcome = await workload.ask(f"final {key}", proxy, get)
    if isinstance(outcome, tuple):
        info, data = outcome
        if info.consistency.degraded:
            raise Violation(f"{key}: a degraded answer after all has healed")
        return seen(info, data)
    if isinstance(outcome, NoSuchObject):
        return Seen(None, outcome.deleted_timestamp)
    if isinstance(outcome, NoSuchContainer) and container in workload.passing:
        return Seen(None, 0)
    raise Violation(f"{key}: {outcome!r} after all has healed")


async def _check_listings(workload: Workload, proxy: Proxy, found: dict[str, Seen]) -> None:
    """Listings hold exactly what is there, and totals are exact."""
    totals = [0, 0]
    there_count = 0
    for container in (*workload.containers, *workload.passing):
        outcome = await workload.ask(
            f"final list {container.decode()}",
            proxy,
            lambda store, c=container: store.list_objects(ACCOUNT, c, ListQuery()),  # type: ignore[misc]
        )
        if isinstance(outcome, NoSuchContainer) and container in workload.passing:
            continue
        there_count += 1
        if isinstance(outcome, Exception):
            raise Violation(f"{container!r}: {outcome!r} after all has healed")
        prefix = container.decode() + "/"
        there = {
            key.removeprefix(prefix).encode(): len(one.value)
            for key, one in found.items()
            if key.startswith(prefix) and one.value is not None
        }
        shown = {item.name: item.size_bytes for item in outcome.items if hasattr(item, "size_bytes")}
        if shown != there:
            raise Unsettled(
                f"{container!r}: listed but not there, or otherwise: {sorted(shown.items() ^ there.items())}"
            )
        if (outcome.container.object_count, outcome.container.size_bytes) != (len(there), sum(there.values())):
            raise Unsettled(f"{container!r}: totals {outcome.container} of {len(there)}, {sum(there.values())}")
        totals[0] += len(there)
        totals[1] += sum(there.values())
    account = await workload.ask("final account", proxy, lambda store: store.head_account(ACCOUNT))
    if isinstance(account, Exception):
        raise Violation(f"{account!r} after all has healed")
    if [account.object_count, account.size_bytes] != totals or account.container_count != there_count:
        raise Unsettled(f"the account's totals are {account}, and should be {totals} in {there_count}")
