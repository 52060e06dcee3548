"""Servers that are killed or stopped while clients with keys ask: what is on whose account."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from sqlalchemy import func, select, text

from fledge.accounts.database import open_database
from fledge.accounts.key_store import KeyStore
from fledge.accounts.keys import KeySpec, NewKey
from fledge.accounts.meter import Meter
from fledge.accounts.tables import usage_months
from fledge.accounts.usage import UsageRecord
from tests.processes.forked_server import Servers
from tests.processes.keyed_load import Load, Used, save_model, used

TURNS, AT_ONCE = 10, 2
MOST_LOST_S = 1.0
PAUSE_S = 0.005
"""So that the machine is not at its limits: how much is lost is a matter of time."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


class Folder:
    """Where servers are, and what they have in common.

    Attributes:
        home: the folder.
        database: theirs, as the test sees it.
        settings: of all servers.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "data").mkdir()
        self.database = open_database(f"sqlite:///{home}/data/accounts.db")
        self.settings: dict[str, Any] = {"models": [str(save_model(home / "static"))]}

    def new_key(self, name: str) -> NewKey:
        return KeyStore(self.database).create(KeySpec(name=name))

    def check(self) -> None:
        """The file is whole, and its two tables of usage say the same."""
        with self.database.read() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
            month = connection.execute(select(func.sum(usage_months.c.tokens))).scalar()
            day = connection.execute(text("SELECT sum(tokens) FROM usage_days")).scalar()
        assert month == day


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    folder.database.close()


class Disk:
    """Writes as a meter does, beside the servers, and so knows how long that takes here and now."""

    def __init__(self, folder: Path) -> None:
        self.slowest_s = 0.0
        self._database = open_database(f"sqlite:///{folder}/beside.db")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._database.close()

    def _write(self) -> None:
        meter = Meter(self._database)
        while not self._is_over.wait(0.1):
            meter.count(UsageRecord("key", "model"))
            began_s = time.monotonic()
            meter.flush()
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)


def lost_s(load: Load, counted: int, killed_s: float) -> float:
    """How long before the kill the oldest answer came that was not counted."""
    so_far = 0
    for came_s, tokens in sorted(load.answered):
        so_far += tokens
        if so_far > counted:
            return killed_s - came_s
    return 0.0


def test_twenty_servers_killed_under_load_lose_a_second_at_most_and_count_nothing_twice(
    folder: Folder,
) -> None:
    keys = [folder.new_key(f"key {n}") for n in range(2 * AT_ONCE)]
    generator = np.random.default_rng(5)
    with Servers(folder.home, folder.settings, ahead=AT_ONCE) as servers, Disk(folder.home) as disk:
        for _ in range(TURNS):
            before = [used(folder.database, one.key.id) for one in keys]
            pair = [servers.take() for _ in range(AT_ONCE)]
            loads: list[Load] = []
            killed_s = []
            with ExitStack() as stack:
                for server, own in zip(pair, (keys[:AT_ONCE], keys[AT_ONCE:]), strict=True):
                    url = server.url()
                    for key in own:
                        load = Load(url, key.secret, pause_s=PAUSE_S, may_end=True)
                        loads.append(stack.enter_context(load))
                for load in loads:
                    load.go_on_for(1)
                for server in pair:
                    # Any moment will do, of which the later ones can have lost too much.
                    time.sleep(MOST_LOST_S / 2 + generator.uniform(0, 0.4))
                    killed_s += [time.monotonic()] * AT_ONCE
                    server.kill()
            for key, load, old, at_s in zip(keys, loads, before, killed_s, strict=True):
                counted = used(folder.database, key.key.id).tokens - old.tokens
                answered, in_flight = load.tokens(), load.tokens_in_flight()
                assert counted <= answered + in_flight
                assert lost_s(load, counted, at_s) <= MOST_LOST_S + disk.slowest_s
            folder.check()
        assert all(used(folder.database, one.key.id).tokens for one in keys)


def test_a_server_that_is_stopped_under_load_loses_nothing(folder: Folder) -> None:
    keys = [folder.new_key(f"key {n}") for n in range(2)]
    answers, tokens = [0, 0], [0, 0]
    with Servers(folder.home, folder.settings, ahead=1) as servers:
        for _ in range(3):
            server = servers.take()
            with ExitStack() as stack:
                loads = [
                    stack.enter_context(
                        Load(server.url(), key.secret, may_refuse=[503], may_end=True)
                    )
                    for key in keys
                ]
                for load in loads:
                    load.go_on_for(200)
                server.stop()
            for n, load in enumerate(loads):
                answers[n] += len(load.answered)
                tokens[n] += load.tokens()
            folder.check()
            for n, key in enumerate(keys):
                assert used(folder.database, key.key.id) == Used(answers[n], tokens[n])
