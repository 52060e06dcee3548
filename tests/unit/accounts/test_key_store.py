"""Keys in the database: made once, listed, revoked, rotated; and their secrets nowhere."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import select, text

from fledge.accounts.database import Database
from fledge.accounts.key_store import KeyStore
from fledge.accounts.keys import Key, KeySpec, digest_of
from fledge.accounts.tables import key_secrets, keyring, metadata
from fledge.errors import InvalidRequest, KeyNameTaken, KeyNotFound
from tests.unit.accounts.conftest import Clock


def everything_in(database: Database) -> str:
    """Each value of each row of each table."""
    with database.read() as connection:
        return repr([connection.execute(select(table)).all() for table in metadata.sorted_tables])


def digests_in(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(select(key_secrets.c.digest)).scalars())


def digests_of(store: KeyStore) -> dict[str, float]:
    """Of every secret of every living key, when it ends."""
    changes = store.changes(None)
    assert changes is not None
    return {digest.hex(): ends for one in changes.keys for digest, ends in one.secrets}


def names(keys: list[Key]) -> list[str]:
    return [key.name for key in keys]


def test_a_key_is_stored_as_it_was_made(store: KeyStore, clock: Clock) -> None:
    spec = KeySpec(
        name="größe",
        scopes=frozenset({"inference", "admin"}),
        models=("BAAI/*", "my own, or other"),
        expires=clock.moment + timedelta(days=1),
        requests_per_minute=1,
        tokens_per_minute=2**40,
        concurrent_requests=3,
        monthly_token_budget=2**53,
        monthly_budget_nanos=5,
    )
    key = store.create(spec).key
    assert key.created == clock.moment
    assert store.show(key.id) == store.show("größe") == key
    assert store.listed() == [key]


def test_a_key_that_will_not_do_is_not_made(store: KeyStore) -> None:
    with pytest.raises(InvalidRequest):
        store.create(KeySpec(name="a", tokens_per_minute=0))
    assert not store.has_any()


def test_a_secret_is_stored_as_its_hash_alone(
    store: KeyStore, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = store.create(KeySpec(name="a"))
    rotated = store.rotate("a", grace_s=60)

    assert digests_in(database) == {digest_of(one.secret).hex() for one in (made, rotated)}
    stored = everything_in(database)
    for one in (made, rotated):
        assert one.secret[len(one.key.prefix) : -4] not in stored
        assert one.secret not in f"{one!r} {one} {store.show('a')!r} {caplog.text}"
        assert one.secret.startswith(one.key.prefix)
        assert one.secret.endswith(one.key.last_four)


def test_two_living_keys_cannot_have_one_name(store: KeyStore) -> None:
    first = store.create(KeySpec(name="a")).key
    with pytest.raises(KeyNameTaken, match="there is a key named a already") as caught:
        store.create(KeySpec(name="a"))
    assert caught.value.field == "name"

    store.revoke(first.id)

    second = store.create(KeySpec(name="a")).key
    assert store.show("a") == second
    assert store.show(first.id).name == "a"


def test_of_revoked_keys_a_name_means_the_last(store: KeyStore, clock: Clock) -> None:
    store.create(KeySpec(name="a"))
    store.revoke("a")
    clock.time += 1
    last = store.create(KeySpec(name="a")).key
    store.revoke("a")
    assert store.show("a").id == last.id


@pytest.mark.parametrize("name", ["nobody", "key_0123", "", "\udcff", "a\0b"])
def test_a_key_that_is_not_there_is_told(store: KeyStore, name: str) -> None:
    with pytest.raises(KeyNotFound):
        store.show(name)
    with pytest.raises(KeyNotFound):
        store.revoke(name)
    with pytest.raises(KeyNotFound):
        store.rotate(name)


def test_lists_leave_out_what_has_ended(store: KeyStore, clock: Clock) -> None:
    for name in ("living", "revoked", "expiring"):
        clock.time += 1
        expires = clock.moment + timedelta(days=1) if name == "expiring" else None
        store.create(KeySpec(name=name, expires=expires))
    store.revoke("revoked")
    clock.time += 24 * 3600

    assert names(store.listed()) == ["living"]
    assert names(store.listed(with_ended=True)) == ["living", "revoked", "expiring"]


def test_a_revoked_key_has_no_secrets_left(
    store: KeyStore, database: Database, clock: Clock
) -> None:
    store.create(KeySpec(name="a"))
    store.rotate("a", grace_s=60)
    key = store.revoke("a")
    assert key.revoked == clock.moment
    assert digests_in(database) == set()
    assert store.has_any()


def test_revoking_again_changes_nothing(store: KeyStore, clock: Clock) -> None:
    store.create(KeySpec(name="a"))
    key = store.revoke("a")
    clock.time += 1
    assert store.revoke("a") == key


def test_a_rotated_key_keeps_everything_but_its_secret(store: KeyStore) -> None:
    made = store.create(KeySpec(name="a", tokens_per_minute=5))
    rotated = store.rotate("a")
    assert rotated.secret != made.secret
    assert rotated.key.id == made.key.id
    assert rotated.key.tokens_per_minute == 5
    assert digests_of(store) == {digest_of(rotated.secret).hex(): float("inf")}


def test_the_secret_before_ends_after_its_grace(store: KeyStore, clock: Clock) -> None:
    made = store.create(KeySpec(name="a"))
    rotated = store.rotate("a", grace_s=60)
    assert digests_of(store) == {
        digest_of(made.secret).hex(): clock.time + 60,
        digest_of(rotated.secret).hex(): float("inf"),
    }


def test_rotating_again_gives_no_secret_more_time(store: KeyStore, clock: Clock) -> None:
    first = store.create(KeySpec(name="a"))
    second = store.rotate("a", grace_s=60)
    third = store.rotate("a", grace_s=3600)
    assert digests_of(store) == {
        digest_of(first.secret).hex(): clock.time + 60,
        digest_of(second.secret).hex(): clock.time + 3600,
        digest_of(third.secret).hex(): float("inf"),
    }
    clock.time += 61
    fourth = store.rotate("a", grace_s=0)
    assert set(digests_of(store)) == {digest_of(fourth.secret).hex()}


def test_a_key_that_has_ended_is_not_rotated(store: KeyStore, clock: Clock) -> None:
    store.create(KeySpec(name="a", expires=clock.moment + timedelta(seconds=1)))
    clock.time += 1
    with pytest.raises(InvalidRequest, match="a is expired"):
        store.rotate("a")
    store.revoke("a")
    with pytest.raises(InvalidRequest, match="a is revoked"):
        store.rotate("a")


@pytest.mark.parametrize("grace_s", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_grace_that_is_none_is_refused(store: KeyStore, grace_s: float) -> None:
    store.create(KeySpec(name="a"))
    with pytest.raises(InvalidRequest, match="`grace_s` must be from 0 to 31536000"):
        store.rotate("a", grace_s=grace_s)


def test_changes_are_told_once(store: KeyStore) -> None:
    nothing = store.changes(None)
    assert nothing is not None
    assert (nothing.is_full, nothing.keys) == (True, [])
    assert store.changes(nothing.version) is None

    for name in ("a", "b", "c"):
        store.create(KeySpec(name=name))
    all_three = store.changes(nothing.version)
    assert all_three is not None
    assert not all_three.is_full
    assert {one.key.name for one in all_three.keys} == {"a", "b", "c"}

    store.revoke("b")
    one = store.changes(all_three.version)
    assert one is not None
    assert [(each.key.name, each.secrets) for each in one.keys] == [("b", ())]
    assert store.changes(one.version) is None


def test_another_database_in_the_same_place_is_read_in_full(
    store: KeyStore, database: Database
) -> None:
    store.create(KeySpec(name="a"))
    before = store.changes(None)
    assert before is not None
    with database.write() as connection:
        connection.execute(keyring.update().values(epoch="another", counter=1))
    after = store.changes(before.version)
    assert after is not None
    assert after.is_full


def test_an_older_backup_is_read_in_full(store: KeyStore, database: Database) -> None:
    store.create(KeySpec(name="a"))
    before = store.changes(None)
    assert before is not None
    with database.write() as connection:
        connection.execute(keyring.update().values(counter=0))
    after = store.changes(before.version)
    assert after is not None
    assert after.is_full


def test_changes_of_many_at_once_are_all_numbered(store: KeyStore, other: Database) -> None:
    """A number that is seen means that everything up to it is, or a revocation could be missed."""
    stores = [store, KeyStore(other)]
    seen: set[str] = set()
    versions = []

    def create(number: int) -> None:
        stores[number % 2].create(KeySpec(name=f"key {number}"))

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(create, number) for number in range(40)]
        version = None
        while len(seen) < 40:
            if changes := store.changes(version):
                version = changes.version
                versions.append(version.counter)
                seen |= {one.key.name for one in changes.keys}
            elif all(job.done() for job in jobs):
                break
        for job in jobs:
            job.result()
        last = store.changes(version)
    assert len(seen | {one.key.name for one in last.keys} if last else seen) == 40
    assert all(one < other for one, other in pairwise(versions))


def test_a_key_is_erased_with_its_secrets_by_whoever_owns_the_database(
    store: KeyStore, database: Database
) -> None:
    store.create(KeySpec(name="a"))
    with database.write() as connection:
        connection.execute(text("DELETE FROM api_keys"))
    assert digests_in(database) == set()
