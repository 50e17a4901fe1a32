"""Machines on one machine: network namespaces joined by a bridge, whose links can be cut.

Each machine has an address, a folder and processes of its own; nothing of the host's own network is touched. The bridge is
in a namespace of its own, too. Needs root (or CAP_SYS_ADMIN and CAP_NET_ADMIN) and iproute2: `missing()` says what there is
not.

A cut link swallows packets, as a pulled cable does: nobody is told. `cut` takes one machine off the bridge; `cut_one_way`
lets a machine send nothing to another, which still reaches it.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from ringstead.processes.life import READY_LINE, READY_VARIABLE

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_READY_S = 60


def missing() -> str:
    """Why there can be no namespaces here; "" if there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian's package iproute2)"
    name = f"rs{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces can't be made here: {made.stderr.strip()}"
    try:
        link = ["ip", "-n", name, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]
        linked = subprocess.run(link, capture_output=True, text=True, check=False)
        return f"no link between namespaces can be made here: {linked.stderr.strip()}" if linked.returncode else ""
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class Machine:
    """One of them."""

    def __init__(self, network: Network, number: int, folder: Path) -> None:
        self.network = network
        self.number = number
        self.folder = folder
        self.address = f"10.213.0.{number + 1}"
        self.namespace = f"{network.name}n{number}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True)

    def serve(self, service: str, *lines: str) -> Callable[[], None]:
        """Write settings and start a service of Ringstead; -> what waits until it is ready."""
        config = self.folder / f"{service}.toml"
        config.write_text("\n".join([f'service = "{service}"', f'node = "{self.address}"', *lines]) + "\n")
        ready_read, ready_write = os.pipe()
        log_path = self.folder / f"{service}.log"
        with log_path.open("ab") as log:
            self._processes[service] = subprocess.Popen(
                [*self._inside, sys.executable, "-m", "ringstead", "serve", service, "--config", str(config)],
                pass_fds=(ready_write,),
                env={**os.environ, READY_VARIABLE: str(ready_write)},
                stderr=log,
            )
        os.close(ready_write)

        def wait() -> None:
            with os.fdopen(ready_read, "rb") as pipe:
                readable, _, _ = select.select([pipe], [], [], _READY_S)
                assert readable, log_path.read_text()
                assert pipe.readline() == READY_LINE, log_path.read_text()

        return wait

    def ringstead(self, *arguments: str) -> str:
        """Run `ringstead ARGUMENTS` on this machine; what it prints."""
        command = [*self._inside, sys.executable, "-m", "ringstead", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run something asynchronous whose sockets are this machine's. Blocks."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                _enter(self.namespace)
                outcome.append(trio.run(function))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def stop(self) -> None:
        """SIGTERM to all its services, the last first."""
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    @property
    def _inside(self) -> tuple[str, ...]:
        return "ip", "netns", "exec", self.namespace


class Network:
    """Machines that see each other. A context manager; everything is gone afterwards."""

    def __init__(self, folder: Path, count: int) -> None:
        self.name = f"rs{os.getpid()}"
        self._hub = f"{self.name}h"
        self.machines = [Machine(self, number, folder / f"machine-{number}") for number in range(count)]

    def __enter__(self) -> Network:
        self._ip("netns", "add", self._hub)
        self._ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
        self._ip("-n", self._hub, "link", "set", "br0", "up")
        for machine in self.machines:
            space, port = machine.namespace, f"p{machine.number}"
            self._ip("netns", "add", space)
            self._ip("-n", self._hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            self._ip("-n", self._hub, "link", "set", port, "master", "br0", "up")
            self._ip("-n", space, "link", "set", "lo", "up")
            self._ip("-n", space, "link", "set", "eth0", "up")
            self._ip("-n", space, "addr", "add", f"{machine.address}/24", "dev", "eth0")
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.stop()
        for space in (*(machine.namespace for machine in self.machines), self._hub):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)

    def cut(self, machine: Machine) -> None:
        """Pull its cable."""
        self._ip("-n", self._hub, "link", "set", f"p{machine.number}", "nomaster")

    def heal(self, machine: Machine) -> None:
        """Put it back."""
        self._ip("-n", self._hub, "link", "set", f"p{machine.number}", "master", "br0")

    def cut_one_way(self, sender: Machine, receiver: Machine) -> None:
        """What `sender` sends to `receiver` is lost; what `receiver` sends arrives."""
        self._ip("-n", sender.namespace, "route", "add", "blackhole", f"{receiver.address}/32")

    def heal_one_way(self, sender: Machine, receiver: Machine) -> None:
        """It arrives again."""
        self._ip("-n", sender.namespace, "route", "del", "blackhole", f"{receiver.address}/32")

    @staticmethod
    def _ip(*arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stderr)


def _enter(namespace: str) -> None:
    """Let this thread's sockets be those of a namespace."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)
