"""Calls to a pool: a few sessions in worker threads, wherever the pool's master is.

XenAPI's binding blocks and is not thread-safe, so each call borrows one of a handful of workers: a binding object
with its own connection and its own login, used by one thread at a time. The pool has its own limit of threads: a pool
that hangs holds up nobody else's.

Who is master changes. A host that is not answers a login with HOST_IS_SLAVE and the master's address; a master that
stepped down answers with SESSION_INVALID first, since sessions live in its memory; a dead one does not answer, and
then each other known host is asked for the way. `Whereabouts` is what the workers of a pool know together: the
addresses, and which one was the master last.

What is repeated, and what never: after SESSION_INVALID, HOST_IS_SLAVE or a refused connection the call was not done,
so it is sent again by itself. After `NoAnswer` only a message that reads is (`is_read`): the rest is left to the
caller, who can look.

A call that runs into its deadline, or whose task is cancelled, has its connection shut down under it, so the thread
ends at once and no thread is ever left behind waiting.

Secrets: no message, repr or log of this package has the password or a session; XML-RPC bodies are never logged.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import trio
import XenAPI

from scheduler.hypervisor import HypervisorError
from scheduler.xen.connection import NotXenApi, RpcTransport, trust
from scheduler.xen.errors import (
    BadArgument,
    CredentialsRefused,
    NoAnswer,
    NotAXenPool,
    PoolUnreachable,
    SessionLost,
    WrongMaster,
    failure,
)
from scheduler.xen.settings import Address, BadPoolSettings, PoolSettings

Value: TypeAlias = "str | int | float | bool | Sequence[Value] | Mapping[str, Value]"
"""What a XenAPI parameter can be."""

API_VERSION = "2.0"
ORIGINATOR = "ringstead"
"""Sessions are counted by originator: a runaway of ours throws out no other tool's."""
GRACE_S = 1.0
"""What a call gets on top of its deadline before its connection is shut down from outside."""
ADDRESSES_MAX = 64
"""Of hosts of one pool that are remembered; XenServer's own limit for a pool."""
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def is_read(method: str) -> bool:
    """Whether a message changes nothing, so that it can be sent again whatever became of the first one."""
    verb = method.rpartition(".")[2]
    return verb.startswith(("get_", "assert_", "compute_")) or method in ("event.from", "SR.scan", "host.list_methods")


def on_the_wire(value: Any) -> Any:
    """A parameter as XML-RPC has it: integers are strings. Raises BadArgument for text that XML cannot carry."""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if UNPRINTABLE.search(value):
            raise BadArgument(f"{value[:60]!r} holds control characters, which no name or value in XenAPI can have")
        return value
    if isinstance(value, Mapping):
        return {on_the_wire(key): on_the_wire(item) for key, item in value.items()}
    return [on_the_wire(item) for item in value]


class Whereabouts:
    """The hosts of a pool as its workers know them: the likely master first. Thread-safe."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._lock = threading.Lock()
        self._known = list(addresses)

    def first(self) -> Address:
        """Where to call."""
        with self._lock:
            return self._known[0]

    def all(self) -> list[Address]:
        """Everywhere to ask, the likely master first."""
        with self._lock:
            return list(self._known)

    def is_master(self, address: Address) -> None:
        """This one took a login."""
        with self._lock:
            if address in self._known:
                self._known.remove(address)
            self._known.insert(0, address)
            del self._known[ADDRESSES_MAX:]

    def also(self, address: Address) -> None:
        """One more host of the pool."""
        with self._lock:
            if address not in self._known and len(self._known) < ADDRESSES_MAX:
                self._known.append(address)


class Worker:
    """One binding object: a connection and a login. Used by one thread at a time; `abort` from any."""

    def __init__(self, settings: PoolSettings, context: ssl.SSLContext, whereabouts: Whereabouts) -> None:
        self._settings = settings
        self._context = context
        self._whereabouts = whereabouts
        self._session: XenAPI.Session | None = None
        self._transport: RpcTransport | None = None
        self._address: Address | None = None
        self._aborted = False

    def call(self, method: str, args: Sequence[Any], deadline: float) -> Any:
        """Call a message of the pool, wherever its master is; `deadline` is of `time.monotonic`."""
        for _ in range(3):
            session = self._login(deadline)
            try:
                return self._send(session, method, args, deadline)
            except (SessionLost, WrongMaster) as error:
                self.forget()
                if isinstance(error, WrongMaster):
                    self._learn(error)
                problem: Exception = error
            except PoolUnreachable as error:  # the master that was; nothing was sent
                self.forget()
                problem = error
        message = f"pool {self._settings.name}: no session lasts for one call: {problem}"
        if isinstance(
            problem, SessionLost
        ):  # the call was not done, and whose session it is the caller may know better
            raise SessionLost(message, problem.code)
        raise NoAnswer(message)

    def handle(self) -> tuple[Address, str]:
        """Where this worker is logged in, and the session. Only after a call."""
        assert self._address is not None
        assert self._session is not None
        return self._address, str(self._session.handle)

    def forget(self) -> None:
        """Drop connection and login."""
        if self._transport is not None:
            self._transport.close()
        self._session = self._transport = self._address = None

    def logout(self, deadline: float) -> None:
        """End the session at the pool, if there is one and the pool answers."""
        if self._session is not None:
            with contextlib.suppress(HypervisorError):  # it ends by itself after a day
                self._send(self._session, "session.logout", (), deadline)
        self.forget()

    def abort(self) -> None:
        """From any thread: end the call that is under way, for good."""
        self._aborted = True
        transport = self._transport
        if transport is not None:
            transport.abort()

    def _learn(self, error: WrongMaster) -> Address | None:
        base = self._address or self._whereabouts.first()
        try:
            master = base.beside(error.master)
        except BadPoolSettings:
            return None
        self._whereabouts.is_master(master)
        return master

    def _login(self, deadline: float) -> XenAPI.Session:
        """A session at the master. Tries what is known, and where that points to."""
        if self._session is not None and self._address == self._whereabouts.first():
            return self._session
        self.forget()
        waiting, asked = self._whereabouts.all(), set[Address]()
        problem: PoolUnreachable | NoAnswer | None = None
        while waiting:
            address = waiting.pop(0)
            if address in asked:
                continue
            asked.add(address)
            try:
                return self._login_at(address, deadline)
            except WrongMaster as error:
                master = self._learn(error)
                if master is not None:
                    waiting.insert(0, master)
            except (PoolUnreachable, NoAnswer) as error:
                problem = problem or error
        if problem is not None:
            raise PoolUnreachable(str(problem))
        raise PoolUnreachable(
            f"pool {self._settings.name}: each host takes another for the master; a new one is being made"
        )

    def _login_at(self, address: Address, deadline: float) -> XenAPI.Session:
        transport = RpcTransport(address, self._settings, self._context)
        self._transport = transport
        if self._aborted:
            transport.abort()
        session = XenAPI.Session(f"{address}/", transport=transport)
        self._address = address
        credentials = (self._settings.username, self._settings.password, API_VERSION, ORIGINATOR)
        try:
            handle = self._send(session, "session.login_with_password", credentials, deadline, with_session=False)
        except BaseException as error:
            self.forget()
            if getattr(error, "code", "") in ("SESSION_AUTHENTICATION_FAILED", "SESSION_AUTHORIZATION_FAILED"):
                raise CredentialsRefused(
                    f"pool {self._settings.name}: {address} does not take user {self._settings.username!r} with this"
                    f" password",
                    str(getattr(error, "code", "")),
                ) from None
            raise
        if not isinstance(handle, str) or not handle:
            self.forget()
            raise NotAXenPool(
                f"pool {self._settings.name}: {address} answers a login with something else than a session"
            )
        session._session = handle  # the binding's own login would keep the password, and log in again at the wrong host
        self._session = session
        self._whereabouts.is_master(address)
        return session

    def _send(
        self, session: XenAPI.Session, method: str, args: Sequence[Any], deadline: float, *, with_session: bool = True
    ) -> Any:
        assert self._transport is not None
        self._transport.until(deadline)
        full = ((session.handle, *args)) if with_session else tuple(args)
        login = method == "session.login_with_password"
        try:
            answer = getattr(session, method)(*full)
        except NotXenApi as error:
            raise self._nonsense(login, method, str(error)) from None
        if not isinstance(answer, dict):
            raise self._nonsense(login, method, f"an answer of type {type(answer).__name__}")
        if answer.get("Status") == "Success" and "Value" in answer:
            return answer["Value"]
        description = answer.get("ErrorDescription")
        if answer.get("Status") == "Failure" and isinstance(description, list) and description:
            raise failure(description, self._settings.name)
        raise self._nonsense(login, method, "an answer without result or error")

    def _nonsense(self, login: bool, method: str, what: str) -> Exception:
        where = f"pool {self._settings.name}: {self._address}"
        if login:
            return NotAXenPool(f"{where} is no Xen pool: {what}")
        return NoAnswer(f"{where} answered {method} with {what}")


class PoolSession:
    """Calls to one pool, from trio. Any number of tasks may use it at once; `settings.sessions` calls are under way."""

    def __init__(self, settings: PoolSettings) -> None:
        """Does no I/O; reads the CA file, and raises CertificateRefused if that cannot be used."""
        self.settings = settings
        self.whereabouts = Whereabouts(settings.addresses)
        self.context = trust(settings)
        self._limit = trio.CapacityLimiter(settings.sessions + 1)
        self._events_limit = trio.CapacityLimiter(2)
        self._slots = trio.Semaphore(settings.sessions)
        self._idle: list[Worker] = []

    def __repr__(self) -> str:
        return f"PoolSession({self.settings.name!r}, {self.whereabouts.first()})"

    async def call(self, method: str, *args: Value, timeout_s: float | None = None) -> Any:
        """Call a message; integers in `args` may be integers. Its answer, as XML-RPC has it: integers are strings.

        Raises the errors of `scheduler.xen.errors` and `scheduler.hypervisor`, `NoAnswer` when `timeout_s` is over.
        """
        plain = tuple(on_the_wire(arg) for arg in args)
        timeout_s = timeout_s or self.settings.call_timeout_s
        async with self._slots:
            worker = self._idle.pop() if self._idle else self._worker()
            worker, result = await self._attempts(worker, method, plain, timeout_s, self._limit)
        return result

    async def long_poll(self, worker: Worker | None, method: str, *args: Value, timeout_s: float) -> tuple[Worker, Any]:
        """A call outside of the slots, with a worker of its own that is handed back for the next one: events."""
        plain = tuple(on_the_wire(arg) for arg in args)
        return await self._in_thread(worker or self._worker(), method, plain, timeout_s, self._events_limit)

    async def login(self) -> tuple[Address, str]:
        """Where the master is, and a session there, for raw HTTP. The session is a secret."""
        async with self._slots:
            worker = self._idle.pop() if self._idle else self._worker()
            worker, _ = await self._attempts(worker, "pool.get_all", (), self.settings.call_timeout_s, self._limit)
            return worker.handle()

    async def close(self) -> None:
        """End the sessions at the pool, as far as it answers within some seconds."""
        idle, self._idle = self._idle, []
        with trio.CancelScope(deadline=trio.current_time() + 2 * GRACE_S, shield=True):
            async with trio.open_nursery() as nursery:
                for worker in idle:
                    nursery.start_soon(self.end, worker)

    async def end(self, worker: Worker) -> None:
        """Log a worker out."""
        deadline = time.monotonic() + GRACE_S
        try:
            await trio.to_thread.run_sync(worker.logout, deadline, abandon_on_cancel=True, limiter=self._limit)
        finally:
            worker.abort()

    def _worker(self) -> Worker:
        return Worker(self.settings, self.context, self.whereabouts)

    async def _attempts(
        self, worker: Worker, method: str, args: tuple[Any, ...], timeout_s: float, limit: trio.CapacityLimiter
    ) -> tuple[Worker, Any]:
        """A call, repeated once within its time if it only reads and no answer came; the worker is idle again
        afterwards."""
        deadline = trio.current_time() + timeout_s
        try:
            return await self._in_thread(worker, method, args, timeout_s, limit)
        except NoAnswer:
            left_s = deadline - trio.current_time()
            if not is_read(method) or left_s <= 0:
                raise
            return await self._in_thread(self._worker(), method, args, left_s, limit)

    async def _in_thread(
        self, worker: Worker, method: str, args: tuple[Any, ...], timeout_s: float, limit: trio.CapacityLimiter
    ) -> tuple[Worker, Any]:
        deadline = time.monotonic() + timeout_s
        answered = False
        try:
            with trio.fail_after(timeout_s + GRACE_S):
                result = await trio.to_thread.run_sync(
                    worker.call, method, args, deadline, abandon_on_cancel=True, limiter=limit
                )
            answered = True
            return worker, result
        except trio.TooSlowError:
            raise NoAnswer(f"pool {self.settings.name}: {method} took longer than {timeout_s:.0f} s") from None
        except (NoAnswer, NotAXenPool):
            raise
        except Exception:
            answered = True
            raise
        finally:
            if not answered:
                worker.abort()
            elif limit is self._limit:
                self._idle.append(worker)
