"""Drives a device's background work (checkpoints, compaction) in slices, beside its commits.

A step takes about a millisecond of the process's one thread. After each the task rests for as long as REST times what the
step took, so that background work never has more than a third of the process while requests come, and what it waits for
(the disk, the next commit) it waits for without holding anybody up.
"""

from __future__ import annotations

from time import perf_counter

import trio

from storage_node.device import Device, Progress
from storage_node.group_commit import GroupCommit

IDLE_S = 0.1
"""How often to ask whether something is due."""
REST = 2.0


async def keep_house(device: Device, committer: GroupCommit) -> None:
    """Do what the device wants done, until cancelled (between steps, so that nothing is left half done)."""
    while True:
        await trio.sleep(IDLE_S)
        while (work := device.next_work()) is not None:
            while True:
                started_s = perf_counter()
                progress = work.step()
                took_s = perf_counter() - started_s
                if device.wants_commit:
                    committer.nudge()
                if progress is Progress.DONE:
                    break
                if progress is Progress.BLOCK:
                    await trio.to_thread.run_sync(work.block)
                elif progress is Progress.WAIT:
                    with trio.move_on_after(IDLE_S):
                        await committer.wait_published()
                else:
                    await trio.sleep(took_s * REST)
            await trio.lowlevel.checkpoint()
