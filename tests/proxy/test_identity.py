"""Users on a real store: made, found, changed, removed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from proxy.identity import (
    AccessKeyTaken,
    BadCredentials,
    CorruptRecord,
    Identity,
    IdentityBusy,
    InvalidUser,
    UnknownAccessKey,
    UnknownUser,
    User,
    UserExists,
)
from proxy.known import STALE_S
from proxy.model import PutObjectRequest, Unavailable
from proxy.user_store import ACCESS_KEYS, ACCOUNT, USERS, BytesBody
from tests.support.small_cluster import CLUSTER_KEY, SmallCluster, small_cluster


class Time:
    """Seconds since 1970, moved by the test."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Town:
    """A store and two processes that know its users."""

    def __init__(self, cluster: SmallCluster) -> None:
        self.cluster = cluster
        self.store = cluster.store
        self.time = Time()
        self.here, self.there = self.identity(), self.identity()

    def identity(self, key: bytes = CLUSTER_KEY) -> Identity:
        """What one more process knows."""
        return Identity(self.store, key, self.time, monotonic=self.time)


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    """An empty cluster."""
    async with small_cluster(devices=3) as cluster:
        yield Town(cluster)


async def test_a_user_is_found_in_every_way(town: Town) -> None:
    """By access key, by password, by token, at every process."""
    new = await town.here.add_user("science", "ada", display_name="Ada L.", email="ada@example.org", admin=True)
    user = new.user
    assert (user.account, user.display_name, user.email, user.admin) == (
        "AUTH_science",
        "Ada L.",
        "ada@example.org",
        True,
    )
    assert user.access_keys == (new.access_key,)
    assert await town.there.by_access_key(new.access_key) == (user, new.secret_key)
    assert await town.there.by_password("science:ada", new.password) == user
    token, life_s = town.here.issue_token(user)
    assert life_s == 24 * 3600
    assert await town.there.by_token(token) == user
    assert town.there.known_token(token.encode()) == user
    assert await town.there.show_user("science:ada") == user
    assert new.secret_key not in repr(new)


async def test_given_keys_and_passwords_are_taken(town: Town) -> None:
    """An operator may choose them; what makes no sense is refused before anything is stored."""
    new = await town.here.add_user("p", "u", access_key="AKIAX", secret_key="s" * 20, password="pw")
    assert (new.access_key, new.secret_key, new.password) == ("AKIAX", "s" * 20, "pw")
    for wrong in (
        {"access_key": "AKIAY"},
        {"access_key": "a b", "secret_key": "s" * 20},
        {"access_key": "AKIAY", "secret_key": "short"},
        {"password": ""},
        {"email": "a\nb"},
    ):
        with pytest.raises(InvalidUser):
            await town.here.add_user("p", "v", **wrong)
    with pytest.raises(InvalidUser):
        await town.here.add_user("p:q", "v")
    assert [user.full_name for user in await town.here.list_users()] == ["p:u"]


async def test_names_and_keys_are_unique(town: Town) -> None:
    """A second user of the name, or with the key, is refused, and the first is as before."""
    await town.here.add_user("p", "u", access_key="AKIAX", secret_key="s" * 20)
    with pytest.raises(UserExists):
        await town.there.add_user("p", "u", access_key="AKIAY", secret_key="t" * 20)
    with pytest.raises(AccessKeyTaken):
        await town.there.add_user("p", "v", access_key="AKIAX", secret_key="t" * 20)
    with pytest.raises(UnknownAccessKey):
        await town.there.by_access_key("AKIAY")
    assert (await town.there.by_access_key("AKIAX"))[1] == "s" * 20
    assert [user.name for user in await town.here.list_users()] == ["u"]


async def test_racing_commands(town: Town) -> None:
    """Of many who add the same user at once exactly one succeeds, and the keys of the others are free again."""
    done: list[str] = []

    async def add(number: int) -> None:
        try:
            await town.identity().add_user("p", "u", access_key=f"AKIA{number}", secret_key="s" * 20)
        except UserExists:
            return
        done.append(f"AKIA{number}")

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(add, number)
    assert len(done) == 1
    assert (await town.here.show_user("p:u")).access_keys == tuple(done)
    for number in range(4):
        if f"AKIA{number}" not in done:
            await town.here.add_access_key("p:u", f"AKIA{number}", "t" * 20)


async def test_a_removed_user_is_gone_within_seconds(town: Town) -> None:
    """Other processes notice when what they know is too old; keys and name can be used again, tokens can't."""
    new = await town.here.add_user("p", "u", access_key="AKIAX", secret_key="s" * 20, password="pw")
    token, _ = town.here.issue_token(new.user)
    for identity in (town.here, town.there):
        await identity.by_token(token)
        await identity.by_access_key("AKIAX")
        await identity.by_password("p:u", "pw")
    await town.here.remove_user("p:u")
    town.time.now_s += 5.1
    for identity in (town.here, town.there):
        with pytest.raises(BadCredentials):
            await identity.by_token(token)
        with pytest.raises(UnknownAccessKey):
            await identity.by_access_key("AKIAX")
        with pytest.raises(BadCredentials):
            await identity.by_password("p:u", "pw")
    with pytest.raises(UnknownUser):
        await town.here.remove_user("p:u")
    again = await town.here.add_user("p", "u", access_key="AKIAX", secret_key="t" * 20, password="pw")
    assert again.user.id == new.user.id
    with pytest.raises(BadCredentials):
        await town.there.by_token(token)
    assert (await town.there.by_access_key("AKIAX"))[1] == "t" * 20


async def test_a_new_password_ends_tokens(town: Town) -> None:
    """The old password and the tokens got with it are worth nothing any more; access keys are as before."""
    new = await town.here.add_user("p", "u", password="old")
    token, _ = town.here.issue_token(await town.there.by_password("p:u", "old"))
    await town.there.by_token(token)
    await town.here.set_password("p:u", "new")
    town.time.now_s += 5.1
    with pytest.raises(BadCredentials):
        await town.there.by_token(token)
    with pytest.raises(BadCredentials):
        await town.there.by_password("p:u", "old")
    assert (await town.there.by_password("p:u", "new")).name == "u"
    assert (await town.there.by_access_key(new.access_key))[1] == new.secret_key


async def test_several_access_keys(town: Town) -> None:
    """Keys are added and taken one by one."""
    await town.here.add_user("p", "u", access_key="AKIA1", secret_key="s" * 20)
    key, secret = await town.here.add_access_key("p:u")
    assert (await town.there.by_access_key(key))[1] == secret
    await town.here.remove_access_key("p:u", "AKIA1")
    assert (await town.here.show_user("p:u")).access_keys == (key,)
    with pytest.raises(UnknownAccessKey):
        await town.here.remove_access_key("p:u", "AKIA1")
    with pytest.raises(UnknownAccessKey):
        await town.there.by_access_key("AKIA1")
    with pytest.raises(AccessKeyTaken):
        await town.here.add_user("p", "v", access_key=key, secret_key="s" * 20)


async def test_a_key_without_its_owner_is_free(town: Town) -> None:
    """A command that died between key and record leaves a key that lets nobody in and anybody take it."""
    await town.here.add_user("p", "u")
    await town.store.put_object(ACCOUNT, ACCESS_KEYS, b"AKIAX", BytesBody(b"p:ghost"), PutObjectRequest())
    await town.store.put_object(ACCOUNT, ACCESS_KEYS, b"AKIAY", BytesBody(b"p:u"), PutObjectRequest())
    for key in ("AKIAX", "AKIAY"):
        with pytest.raises(UnknownAccessKey):
            await town.here.by_access_key(key)
    await town.here.add_access_key("p:u", "AKIAX", "s" * 20)
    await town.here.add_user("p", "v", access_key="AKIAY", secret_key="s" * 20)
    assert (await town.here.by_access_key("AKIAX"))[0].name == "u"
    assert (await town.here.by_access_key("AKIAY"))[0].name == "v"


@pytest.mark.parametrize("how", ["cut", "flip", "append", "prefix", "other key", "text"])
async def test_tokens_that_were_tampered_with(town: Town, how: str) -> None:
    """Any change, and another cluster's signature, make a token worthless."""
    new = await town.here.add_user("p", "u")
    token, _ = town.here.issue_token(new.user)
    changed = {
        "cut": token[:-4],
        "flip": token[:20] + ("A" if token[20] != "A" else "B") + token[21:],
        "append": token + "AAAA",
        "prefix": token[7:],
        "other key": town.identity(b"x" * 32).issue_token(new.user)[0],
        "text": "AUTH_tk\udcff\n=",
    }[how]
    with pytest.raises(BadCredentials):
        await town.here.by_token(changed)


async def test_tokens_expire(town: Town) -> None:
    """To the second, however lately they were seen."""
    new = await town.here.add_user("p", "u")
    token, life_s = town.here.issue_token(new.user)
    town.time.now_s += life_s - 2
    await town.here.by_token(token)
    town.time.now_s += 2
    with pytest.raises(BadCredentials):
        await town.here.by_token(token)


async def test_passwords_are_checked_one_at_a_time(town: Town) -> None:
    """Many who log in at once cost one hash when it is right, and are turned away when they are too many."""
    await town.here.add_user("p", "u", password="pw")
    turned_away = 0
    let_in = 0

    async def guess(number: int) -> None:
        nonlocal turned_away
        try:
            await town.here.by_password("p:u", f"guess {number}")
        except IdentityBusy:
            turned_away += 1
        except BadCredentials:
            pass

    async def know() -> None:
        nonlocal let_in
        await town.here.by_password("p:u", "pw")
        let_in += 1

    await know()
    async with trio.open_nursery() as nursery:
        for number in range(70):
            nursery.start_soon(guess, number)
        for _ in range(200):
            nursery.start_soon(know)
        with trio.move_on_after(30) as scope:
            while let_in < 201:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert let_in == 201
    assert turned_away >= 5


async def test_users_are_known_while_the_store_is_away() -> None:
    """A process that has lost every replica of the users still serves whom it knew, for a while, without waiting."""
    async with small_cluster(devices=3, local=False) as cluster:
        town = Town(cluster)
        new = await town.here.add_user("p", "u", password="pw")
        token, _ = town.here.issue_token(new.user)
        await town.here.by_token(token)
        nodes = list(cluster.nodes.values())
        for node in nodes:
            await node.stop()
        await cluster.until_connected(connected=False, nodes=nodes)
        town.time.now_s += 6
        for _ in range(100):
            assert await town.here.by_token(token) == new.user
        town.time.now_s += STALE_S
        with pytest.raises(Unavailable):
            await town.here.by_token(token)


async def test_damaged_records(town: Town) -> None:
    """A record that makes no sense, or that another cluster's key sealed, is said to be so."""
    await town.identity(b"x" * 32).add_user("p", "u", access_key="AKIAX", secret_key="s" * 20)
    with pytest.raises(CorruptRecord):
        await town.here.by_access_key("AKIAX")
    await town.store.put_object(ACCOUNT, USERS, b"p:u", BytesBody(b"rubbish"), PutObjectRequest())
    with pytest.raises(CorruptRecord):
        await town.there.show_user("p:u")


async def test_an_empty_cluster_has_no_users(town: Town) -> None:
    """Nothing is made by asking."""
    assert await town.here.list_users() == []
    with pytest.raises(UnknownUser):
        await town.here.show_user("p:u")
    with pytest.raises(UnknownUser):
        await town.here.show_user("no colon")
    with pytest.raises(UnknownAccessKey):
        await town.here.by_access_key("AKIAX")
    with pytest.raises(BadCredentials):
        await town.here.by_password("p:u", "pw")
    assert isinstance(User("p", "u"), User)
