"""Listing an object that no listing shows, for the auditor: the store's own code does it, as a proxy would have.

Problem: a proxy that dies between an object and its row leaves what the auditor finds, and only the store knows what a row
says. But a store means a second set of connections and the proxy's code in memory, for what happens once in a long while.

Idea: load and connect it when there is something to list, one at a time, and let go of it right after. That takes some ten
milliseconds an object, which is nothing beside how rare it is.
"""

from __future__ import annotations

import structlog
import trio

from ringstead.cluster_key import load_cluster_key
from ringstead.config import DaemonsConfig
from ringstead.errors import RingsteadError
from ringstead.services import addresses, load_ring, local_devices
from storage_node.timestamp import Clock

log = structlog.get_logger("ringstead.relisting")


class Relister:
    """Lists objects. `clock` is that of the process, so that all its stamps have one order."""

    def __init__(self, config: DaemonsConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._turn = trio.Lock()

    async def relist(self, key: bytes) -> bool:
        """List the object with that key; whether that was done. Does not raise: the next pass tries again."""
        async with self._turn:
            try:
                return await self._relist(key)
            except RingsteadError as error:
                log.error(
                    "an object without a row can't be listed", key=key.decode("utf-8", "replace"), reason=str(error)
                )
                return False

    async def _relist(self, key: bytes) -> bool:
        from proxy.cluster import Cluster
        from proxy.model import StoreError
        from proxy.store import ObjectStore

        config = self._config
        ring = load_ring(config.ring_file)
        done = False
        async with trio.open_nursery() as nursery:
            cluster = Cluster(
                ring,
                load_cluster_key(config.cluster_key_file),
                self._clock,
                addresses(config),
                local_devices(ring, config.node, config.devices_dir),
            )
            await nursery.start(cluster.run)
            try:
                done = await ObjectStore(cluster).list_again(key)
            except StoreError as error:
                log.warning("an object without a row can't be listed now", reason=str(error))
            nursery.cancel_scope.cancel()
        return done
