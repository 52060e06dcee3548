"""The keys that requests ask: found without a database, refused in time, never guessed."""

import hmac
import logging
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from fledge.accounts import keyring as keyring_module
from fledge.accounts.database import Database, open_database
from fledge.accounts.key_store import Changes, KeyStore, Version
from fledge.accounts.keyring import Keyring
from fledge.accounts.keys import KeySpec, digest_of
from fledge.errors import DatabaseUnavailable
from tests.unit.accounts.conftest import Clock, FlakyDatabase

PATIENCE_S = 30


@pytest.fixture
def keyring(store: KeyStore, clock: Clock) -> Keyring:
    return Keyring(store, now=clock, monotonic=clock)


def test_a_key_is_found_by_its_secret_alone(store: KeyStore, keyring: Keyring) -> None:
    made = store.create(KeySpec(name="a"))
    store.create(KeySpec(name="b"))
    keyring.refresh()
    assert len(keyring) == 2
    assert keyring.find(made.secret) == made.key
    assert keyring.get(made.key.id) == made.key
    for wrong in (made.secret[:-1], made.secret + " ", made.secret.upper(), "", "fl-", "\udcff"):
        assert keyring.find(wrong) is None
    assert keyring.find(made.key.id) is None
    assert keyring.find(digest_of(made.secret).hex()) is None
    assert keyring.get("key_0123") is None


def test_digests_are_compared_in_constant_time(
    store: KeyStore, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(keyring_module, "compare_digest", compare)
    made = store.create(KeySpec(name="a"))
    keyring.refresh()
    assert keyring.find(made.secret)
    assert compared == [(digest_of(made.secret), digest_of(made.secret))]


def test_what_compares_decides(
    store: KeyStore, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.create(KeySpec(name="a"))
    keyring.refresh()
    monkeypatch.setattr(keyring_module, "compare_digest", lambda *_: False)
    assert keyring.find(made.secret) is None


def test_a_thousand_keys_are_all_found(store: KeyStore, keyring: Keyring) -> None:
    made = [store.create(KeySpec(name=f"key {number}")) for number in range(1000)]
    keyring.refresh()
    assert [keyring.find(one.secret) for one in made] == [one.key for one in made]
    assert len(keyring) == 1000


def test_changes_of_another_instance_arrive(
    store: KeyStore, keyring: Keyring, other: Database, clock: Clock
) -> None:
    elsewhere = KeyStore(other, now=clock)
    kept, revoked = (elsewhere.create(KeySpec(name=name)) for name in ("kept", "revoked"))
    keyring.refresh()
    assert keyring.find(revoked.secret)

    elsewhere.revoke("revoked")
    rotated = elsewhere.rotate("kept", grace_s=60)
    late = elsewhere.create(KeySpec(name="late"))
    assert keyring.find(revoked.secret)  # not yet
    keyring.refresh()

    assert keyring.find(revoked.secret) is None
    assert keyring.get(revoked.key.id) is None
    assert keyring.find(kept.secret) == keyring.find(rotated.secret) == rotated.key
    assert keyring.find(late.secret) == late.key
    assert len(keyring) == 2


def test_a_rotated_secret_ends_with_its_grace(
    store: KeyStore, keyring: Keyring, clock: Clock
) -> None:
    made = store.create(KeySpec(name="a"))
    rotated = store.rotate("a", grace_s=60)
    keyring.refresh()
    clock.time += 59.9
    assert keyring.find(made.secret)
    clock.time += 0.1
    assert keyring.find(made.secret) is None
    assert keyring.find(rotated.secret) == keyring.get(made.key.id) == rotated.key


def test_a_rotation_without_grace_ends_the_secret_before(store: KeyStore, keyring: Keyring) -> None:
    made = store.create(KeySpec(name="a"))
    keyring.refresh()
    rotated = store.rotate("a")
    keyring.refresh()
    assert keyring.find(made.secret) is None
    assert keyring.find(rotated.secret)


def test_a_key_expires_without_a_look_at_the_database(
    store: KeyStore, keyring: Keyring, clock: Clock
) -> None:
    made = store.create(KeySpec(name="a", expires=clock.moment + timedelta(seconds=60)))
    rotated = store.rotate("a", grace_s=3600)
    keyring.refresh()
    clock.time += 59.9
    assert keyring.find(made.secret)
    assert keyring.find(rotated.secret)
    clock.time += 0.1
    assert keyring.find(made.secret) is None
    assert keyring.find(rotated.secret) is None
    assert keyring.get(made.key.id) is None


def test_keys_that_have_ended_are_not_read_at_the_start(
    store: KeyStore, keyring: Keyring, clock: Clock
) -> None:
    store.create(KeySpec(name="a", expires=clock.moment + timedelta(seconds=60)))
    store.create(KeySpec(name="b"))
    store.revoke("b")
    clock.time += 60
    keyring.refresh()
    assert len(keyring) == 0


def test_known_keys_stay_valid_while_the_database_is_down_and_then_are_refused(
    flaky: FlakyDatabase, clock: Clock
) -> None:
    store = KeyStore(flaky, now=clock)
    keyring = Keyring(store, max_stale_s=600, now=clock, monotonic=clock)
    made = store.create(KeySpec(name="a"))
    keyring.refresh()
    flaky.failure = "down"
    with pytest.raises(DatabaseUnavailable):
        keyring.refresh()

    clock.time += 600
    assert keyring.find(made.secret)
    assert keyring.find("fl-unknown") is None
    clock.time += 1
    for ask in (keyring.find, keyring.get):
        with pytest.raises(DatabaseUnavailable, match="has not answered for 601 s"):
            ask(made.secret)

    flaky.failure = None
    keyring.refresh()
    assert keyring.find(made.secret)
    assert keyring.age_s() == 0


def test_an_empty_database_in_the_place_of_the_keys_opens_a_server_to_nobody(
    tmp_path: Path, store: KeyStore, clock: Clock
) -> None:
    class Replaced(KeyStore):
        place: KeyStore = store

        def changes(self, since: Version | None) -> Changes | None:
            return self.place.changes(since)

    empty = open_database(f"sqlite:///{tmp_path}/empty.db")
    stores = Replaced(empty, now=clock)
    keyring = Keyring(stores, now=clock, monotonic=clock)
    keyring.refresh()
    assert not keyring.has_any
    made = store.create(KeySpec(name="a"))
    keyring.refresh()
    assert keyring.has_any
    stores.place = KeyStore(empty, now=clock)
    keyring.refresh()
    assert keyring.find(made.secret) is None
    assert keyring.has_any
    empty.close()


def test_nobody_is_let_in_before_the_keys_are_read(keyring: Keyring) -> None:
    with pytest.raises(DatabaseUnavailable):
        keyring.find("fl-anything")


def test_a_start_without_a_database_is_refused(flaky: FlakyDatabase) -> None:
    flaky.failure = "down"
    with pytest.raises(DatabaseUnavailable):
        Keyring(KeyStore(flaky)).start()


class Watched(Keyring):
    """A keyring that tells when it has looked at the database."""

    def __init__(self, store: KeyStore, *, refresh_s: float) -> None:
        self.looked = threading.Semaphore(0)
        super().__init__(store, refresh_s=refresh_s)

    def refresh(self) -> None:
        try:
            super().refresh()
        finally:
            self.looked.release()

    def wait_for_looks(self, looks: int) -> None:
        for _ in range(looks):
            assert self.looked.acquire(timeout=PATIENCE_S)


def test_by_default_every_instance_looks_once_a_second(store: KeyStore) -> None:
    """So that a revoked key is refused everywhere within two."""
    assert Keyring(store)._ticker._interval_s <= 1.0


def test_a_thread_keeps_up_through_outages_and_says_so_once(
    flaky: FlakyDatabase, other: Database, caplog: pytest.LogCaptureFixture
) -> None:
    keyring = Watched(KeyStore(flaky), refresh_s=0.001)
    elsewhere = KeyStore(other)
    made = elsewhere.create(KeySpec(name="a"))
    keyring.start()
    try:
        assert keyring.find(made.secret)
        flaky.failure = "down"
        keyring.wait_for_looks(6)  # some of them from before
        assert keyring.find(made.secret)
        elsewhere.revoke("a")
        flaky.failure = None
        with caplog.at_level(logging.INFO):
            while not any("works again" in one.message for one in caplog.records):
                keyring.wait_for_looks(1)
        assert keyring.find(made.secret) is None
    finally:
        keyring.close()
    said = [one.message for one in caplog.records if one.name == "fledge.accounts.ticker"]
    assert said == ["fledge-keyring: down; trying again", "fledge-keyring: works again"]
    assert made.secret not in caplog.text


def test_a_thread_outlives_an_error_that_nobody_expected(
    store: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Watched):
        is_broken = False

        def refresh(self) -> None:
            super().refresh()
            if self.is_broken:
                raise ZeroDivisionError

    keyring = Broken(store, refresh_s=0.001)
    keyring.start()
    keyring.is_broken = True
    keyring.wait_for_looks(10)
    keyring.close()
    keyring.close()
    assert "nobody expected" in caplog.text
    assert "ZeroDivisionError" in caplog.text
