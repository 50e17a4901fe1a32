"""`ringstead xensim`: a simulated XenAPI pool, or several, for programs to speak to.

The simulator itself is in `scheduler/xen/simulator`; this gives it addresses, certificates and a folder. Each host has an
address of its own, 127.0.0.1 and up, all at one port, since clients that are told of another host keep the port that they
know; `--one-address` has consecutive ports at one address instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ringstead.errors import UsageError
from ringstead.processes.life import one_failure, take_ready_pipe, tie_to_supervisor


@click.command
@click.option("--port", type=click.IntRange(0, 65535), help="Port of every host; 0 finds a free one.  [9080, TLS 9443]")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address of the first host; others follow it.")
@click.option("--one-address", is_flag=True, help="All hosts at one address, at ports that follow each other.")
@click.option("--pools", type=click.IntRange(1, 50), default=1, show_default=True, help="Pools.")
@click.option("--hosts", type=click.IntRange(1, 64), default=3, show_default=True, help="Hosts of each pool.")
@click.option("--memory-gib", type=click.IntRange(4), default=64, show_default=True, help="Memory of a host.")
@click.option("--cpus", type=click.IntRange(1, 512), default=16, show_default=True, help="CPUs of a host.")
@click.option("--local-gib", type=click.IntRange(1), default=512, show_default=True, help="Local SR of a host.")
@click.option(
    "--shared-gib", type=click.IntRange(0), default=2048, show_default=True, help="Shared SR of a pool, or 0."
)
@click.option("--local-type", type=click.Choice(["ext", "lvm"]), default="ext", show_default=True,
              help="Local SRs: thin (ext) or thick (lvm).")  # fmt: skip
@click.option("--user", default="root", show_default=True, help="Who may log in.")
@click.option("--password", default="root", show_default=True, envvar="RINGSTEAD_XENSIM_PASSWORD",
              help="With what; also from $RINGSTEAD_XENSIM_PASSWORD.")  # fmt: skip
@click.option("--tls", is_flag=True, help="Serve HTTPS, with a certificate of the simulator's own unless given.")
@click.option(
    "--cert", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="PEM certificate, for --tls."
)
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its private key.")
@click.option("--latency", type=click.FloatRange(0), default=0.1, show_default=True,
              help="How long things take: 0 nothing, 1 as on real servers.")  # fmt: skip
@click.option("--live-lag", type=click.FloatRange(0), default=600.0, show_default=True,
              help="Seconds for which a dead host is still called live.")  # fmt: skip
@click.option("--seed", default=None, help="Same seed, same UUIDs and references.  [random]")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Keep pools and disks there.  [forgotten at the end]")  # fmt: skip
def xensim(**options: object) -> None:
    """Simulate XenAPI pools.

    Prints a line for each host when it listens. Ends at Ctrl-C or SIGTERM.
    """
    tie_to_supervisor()
    from scheduler.xen.simulator.run import BadSetting, Settings, run

    ready = take_ready_pipe()
    try:
        with one_failure():
            run(Settings(**options), say=_say, ready=ready)  # type: ignore[arg-type]
    except BadSetting as error:
        raise UsageError(str(error)) from None


def _say(line: str) -> None:
    print(line, flush=True, file=sys.stdout)
