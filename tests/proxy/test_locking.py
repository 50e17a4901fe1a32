"""Holding an object for a conditional write while one of its devices is frozen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio

from proxy import locking
from proxy.cluster import Replica
from proxy.locking import hold_object
from proxy.names import ObjectName
from storage_node.operations import GetObject, PutObject, Status
from tests.support.small_cluster import SmallCluster, small_cluster

KEY = ObjectName("AUTH_test", b"c", b"x").key


@pytest.fixture
async def cluster() -> AsyncIterator[SmallCluster]:
    """Three devices behind the wire."""
    async with small_cluster(devices=3, local=False) as running:
        yield running


class Frozen:
    """Keeps what is sent to one device until it thaws; then it goes there, in order."""

    def __init__(self, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        self._submit: Callable[..., None] = replica.client.submit
        self._kept: list[tuple[Any, ...]] | None = []
        monkeypatch.setattr(type(replica.client), "submit", self._later_for(replica, type(replica.client).submit))

    def _later_for(self, frozen: Replica, submit: Callable[..., None]) -> Callable[..., None]:
        def later(client: Any, *arguments: Any) -> None:
            if client is frozen.client and self._kept is not None:
                self._kept.append(arguments)
            else:
                submit(client, *arguments)

        return later

    def thaw(self) -> None:
        """Let all of it go."""
        kept, self._kept = self._kept or [], None
        for arguments in kept:
            self._submit(*arguments)


async def test_a_majority_is_enough_and_the_frozen_device_follows(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is done without the third device, which has it, unlocked, once it is back."""
    monkeypatch.setattr(locking, "WRITE_TIMEOUT_S", 600.0)
    placement = cluster.cluster.place(KEY)
    third = placement.primaries[2]
    frozen = Frozen(third, monkeypatch)
    with trio.fail_after(60):
        hold = await hold_object(cluster.cluster, KEY, lambda entry: None)
        result = await hold.commit(PutObject(placement.hash, KEY, hold.timestamp, b"", b"new", False, hold.timestamp))
        assert result.applied == 2
        frozen.thaw()
        question = GetObject(placement.hash, KEY, True)
        while (found := await third.client.call(question)).status != Status.FOUND:
            await trio.sleep(0.01)
        assert found.data == b"new"
        again = await hold_object(cluster.cluster, KEY, lambda entry: None)
        assert again.timestamp > hold.timestamp
        await again.release()


async def test_a_lock_that_comes_late_is_let_go(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lets go lets go of a device, too, that has not said yet whether it is locked."""
    monkeypatch.setattr(locking, "WRITE_TIMEOUT_S", 600.0)
    placement = cluster.cluster.place(KEY)
    third = placement.primaries[2]
    frozen = Frozen(third, monkeypatch)
    with trio.fail_after(60):
        hold = await hold_object(cluster.cluster, KEY, lambda entry: None)
        await hold.release()
        frozen.thaw()
        stamp = cluster.cluster.clock.stamp()
        answer = await third.client.call(locking.LockObject(placement.hash, KEY, stamp, locking.LEASE_MS))
        assert answer.status == Status.APPLIED
