"""Batches from their creation to their end, over a fake that answers."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from fledge.accounts.callers import Caller
from fledge.batches.records import Batch
from fledge.batches.store import WINDOW_S
from fledge.errors import (
    BackendUnavailable,
    BudgetExceeded,
    DatabaseUnavailable,
    DeadlineExceeded,
    LimitsUnavailable,
    ModelLoading,
    Overloaded,
    UnknownModel,
)
from tests.unit.batches.fakes import (
    ADMIN,
    Looks,
    Place,
    create,
    jsonl,
    key,
    request,
    requests,
    results,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("fledge.batches.run.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("fledge.batches.run.LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr("fledge.batches.run.REPORT_S", 0.0)
    monkeypatch.setattr("fledge.batches.run.TICK_S", 0.01)
    monkeypatch.setattr("fledge.batches.runner.POLL_S", 0.02)
    return Place(tmp_path)


def answered(place: Place, batch: Batch) -> list[Any]:
    return [line["custom_id"] for line in results(place.store, batch.output_file_id)]


async def test_every_line_is_answered_once(place: Place) -> None:
    batch = create(place.store, jsonl(requests(300)))
    batch = await place.run(batch, "completed")
    assert (batch.total, batch.completed, batch.failed) == (300, 300, 0)
    assert batch.tokens == 900
    assert sorted(answered(place, batch)) == sorted(f"r{n}" for n in range(300))
    assert set(place.answerer.computed.values()) == {1}
    assert [one.name for one in place.store.folder.iterdir() if one.suffix != ".json"] == ["lock"]


async def test_only_so_many_lines_are_on_their_way_at_once(place: Place) -> None:
    batch = create(place.store, jsonl(requests(300)))
    await place.run(batch, "completed")
    assert 1 < place.answerer.most_at_once <= 64


async def test_a_small_queue_lets_one_line_through_at_a_time(place: Place) -> None:
    batch = create(place.store, jsonl(requests(20)))
    await place.run(batch, "completed", max_queued_tokens=40)
    assert place.answerer.most_at_once == 1


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("busy", retry_after_s=0.001),
        ModelLoading("org/name", estimated_time_s=9.0),
        LimitsUnavailable("down", retry_after_s=0.001),
        DatabaseUnavailable("down"),
        DeadlineExceeded("late"),
        BackendUnavailable("unloading"),
    ],
)
async def test_what_is_only_for_now_is_tried_again_and_is_no_answer(
    place: Place, error: Exception
) -> None:
    place.answerer.errors = [error] * 5
    batch = await place.run(create(place.store, jsonl(requests(3))), "completed")
    assert (batch.completed, batch.failed) == (3, 0)
    assert set(place.answerer.charged.values()) == {1}


async def test_while_the_queue_is_full_one_line_at_a_time_finds_out(place: Place) -> None:
    place.answerer.gate.clear()
    batch = create(place.store, jsonl(requests(100)))
    runner = place.runner()
    runner.start()
    await place.answerer.wait_for(64)
    place.answerer.errors = [Overloaded("busy", retry_after_s=0.001) for _ in range(70)]
    place.answerer.gate.set()
    await place.answerer.wait_for(64 + 1)
    at_once = 0
    while place.answerer.errors:
        at_once = max(at_once, place.answerer.running)
        await asyncio.sleep(0)
    assert at_once == 1
    batch = await place.wait(batch, "completed")
    await runner.aclose()
    assert batch.completed == 100
    assert place.answerer.computed.total() == 100 + 70


async def test_errors_are_lines_of_their_own_file_and_the_rest_goes_on(place: Place) -> None:
    budget = BudgetExceeded("used up", limit="budget", allowed=1, used=1, retry_after_s=9e5)
    errors = {1: UnknownModel("none"), 2: budget, 3: ZeroDivisionError()}
    place.answerer.fails = lambda body: errors.get(body["n"])
    lines = [*requests(5), request("bad", bad=True)]
    batch = await place.run(create(place.store, jsonl(lines)), "completed")
    assert (batch.total, batch.completed, batch.failed) == (6, 2, 4)
    found = {line["custom_id"]: line for line in results(place.store, batch.error_file_id)}
    assert {name: line["response"]["body"]["error"]["code"] for name, line in found.items()} == {
        "r1": "model_not_found",
        "r2": "insufficient_quota",
        "r3": "internal_error",
        "bad": "invalid_request",
    }
    assert all(line["error"] is None for line in found.values())


async def test_a_batch_is_on_its_keys_account_as_bulk(place: Place) -> None:
    place.keys["key_a"] = key("key_a")
    caller = Caller(place.keys["key_a"], bill_to="org")
    await place.run(create(place.store, jsonl(requests(1)), caller), "completed")
    assert place.answerer.callers == [Caller(place.keys["key_a"], "org", is_bulk=True)]


async def test_the_lines_left_when_a_key_is_revoked_are_refused(place: Place) -> None:
    place.keys["key_a"] = key("key_a")
    place.answerer.gate.clear()
    batch = create(place.store, jsonl(requests(100)), Caller(place.keys["key_a"]))
    runner = place.runner()
    runner.start()
    await place.answerer.wait_for(64)
    del place.keys["key_a"]
    place.answerer.gate.set()
    batch = await place.wait(batch, "completed")
    await runner.aclose()
    assert (batch.completed, batch.failed) == (64, 36)
    codes = {line["response"]["status_code"] for line in results(place.store, batch.error_file_id)}
    assert codes == {401}


async def test_a_stopped_batch_goes_on_and_repeats_nothing(place: Place) -> None:
    batch = create(place.store, jsonl(requests(200)))
    for _ in range(3):
        runner = place.runner()
        seen = place.answerer.computed.total()
        runner.start()
        await place.answerer.wait_for(min(seen + 40, 200))
        await runner.aclose()
    batch = await place.run(batch, "completed")
    assert sorted(answered(place, batch)) == sorted(f"r{n}" for n in range(200))
    assert set(place.answerer.charged.values()) == {1}


async def test_lines_that_do_not_end_in_time_are_given_up_at_a_stop(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.batches.runner.STOP_S", 0.05)
    place.answerer.gate.clear()
    batch = create(place.store, jsonl(requests(10)))
    runner = place.runner()
    runner.start()
    await place.answerer.wait_for(10)
    await runner.aclose()
    place.answerer.gate.set()
    batch = await place.run(batch, "completed")
    assert set(place.answerer.computed.values()) == {2}
    assert set(place.answerer.charged.values()) == {1}
    assert sorted(answered(place, batch)) == sorted(f"r{n}" for n in range(10))


async def test_lines_that_wait_for_a_full_queue_do_not_hold_up_a_stop(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.batches.run.LONGEST_PAUSE_S", 3600.0)
    place.answerer.fails = lambda _: Overloaded("busy", retry_after_s=3600.0)
    batch = create(place.store, jsonl(requests(10)))
    runner = place.runner()
    runner.start()
    await place.answerer.wait_for(10)
    async with asyncio.timeout(2):
        await runner.aclose()
    assert place.store.find(batch.id, ADMIN).status == "in_progress"


async def test_no_line_begins_once_the_server_drains(place: Place) -> None:
    looks = Looks()
    place.answerer.gate.clear()
    batch = create(place.store, jsonl(requests(200)))
    runner = place.runner(is_draining=looks)
    runner.start()
    await place.answerer.wait_for(64)
    looks.is_draining = True
    await looks.once_more(runner)
    place.answerer.gate.set()
    await runner.aclose()
    assert place.answerer.computed.total() == 64
    assert place.store.find(batch.id, ADMIN).status == "in_progress"


async def test_a_cancelled_batch_keeps_what_it_has(place: Place) -> None:
    batch = create(place.store, jsonl(requests(100)))
    runner = place.runner()
    runner.start()

    def hold(body: dict[str, Any]) -> None:
        if body["n"] == 20:
            place.answerer.gate.clear()

    place.answerer.fails = hold
    await place.answerer.wait_for(64)
    assert place.store.cancel(batch.id, ADMIN).status == "cancelling"
    batch = await place.wait(batch, "cancelled")
    await runner.aclose()
    assert 20 < batch.completed < 100
    assert len(answered(place, batch)) == batch.completed
    assert {"cancelling", "cancelled"} <= batch.moments.keys()


async def test_a_batch_that_has_not_begun_is_cancelled(place: Place) -> None:
    batch = create(place.store, jsonl(requests(3)))
    place.store.cancel(batch.id, ADMIN)
    batch = await place.run(batch, "cancelled")
    assert not batch.has_output
    assert place.answerer.computed.total() == 0


async def test_a_batch_expires_with_a_line_for_each_unanswered_request(place: Place) -> None:
    place.answerer.gate.clear()
    batch = create(place.store, jsonl(requests(100)))
    runner = place.runner()
    runner.start()
    await place.answerer.wait_for(64)
    place.clock.now += WINDOW_S
    batch = await place.wait(batch, "expired")
    await runner.aclose()
    assert (batch.completed, batch.failed) == (0, 100)
    lines = results(place.store, batch.error_file_id)
    assert {line["error"]["code"] for line in lines} == {"batch_expired"}
    assert {line["response"] for line in lines} == {None}
    assert len({line["custom_id"] for line in lines}) == 100


async def test_how_far_a_batch_is_can_be_seen_meanwhile(place: Place) -> None:
    batch = create(place.store, jsonl(requests(10)))

    def hold(body: dict[str, Any]) -> Exception | None:
        if place.answerer.charged.total() < 5:
            return None
        place.answerer.gate.clear()
        return Overloaded("busy", retry_after_s=0.001)

    place.answerer.fails = hold
    runner = place.runner()
    runner.start()
    async with asyncio.timeout(10):
        while (found := place.store.find(batch.id, ADMIN)).completed < 5:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    assert (found.status, found.total) == ("in_progress", 10)
    place.answerer.fails = lambda _: None
    place.answerer.gate.set()
    await runner.aclose()


async def test_of_two_instances_one_runs_a_batch_and_the_other_takes_over(place: Place) -> None:
    other = Place(place.store.folder.parent)
    place.answerer.gate.clear()
    batch = create(place.store, jsonl(requests(10)))
    looks = Looks()
    first, second = place.runner(), other.runner(is_draining=looks)
    first.start()
    await place.answerer.wait_for(10)
    second.start()
    await looks.once_more(second)
    assert other.answerer.computed.total() == 0
    place.answerer.gate.set()
    await place.wait(batch, "completed")
    await first.aclose()
    batch = create(other.store, jsonl(requests(10)))
    await other.wait(batch, "completed")
    await second.aclose()
    assert other.answerer.charged.total() == place.answerer.charged.total() == 10


async def test_one_owners_batches_follow_one_another_and_hold_up_nobody_else(place: Place) -> None:
    for name in ("key_a", "key_b"):
        place.keys[name] = key(name)
    place.answerer.gate.clear()
    own = [create(place.store, jsonl(requests(1)), Caller(place.keys["key_a"])) for _ in "12"]
    other = create(place.store, jsonl(requests(1)), Caller(place.keys["key_b"]))
    looks = Looks()
    runner = place.runner(is_draining=looks)
    runner.start()
    await place.answerer.wait_for(2)
    for batch in (*own, other):
        await place.wait(batch, "in_progress")
    await looks.once_more(runner)
    asking = [one.key_id for one in place.answerer.callers]
    assert sorted(asking) == ["key_a", "key_b"]
    place.answerer.gate.set()
    for batch in (*own, other):
        await place.wait(batch, "completed")
    await runner.aclose()


async def test_a_file_that_is_gone_fails_its_batch(place: Place) -> None:
    batch = create(place.store, jsonl(requests(1)))
    place.store.files.path(batch.input_file_id).unlink()
    batch = await place.run(batch, "failed")
    assert [one.code for one in batch.errors] == ["file_not_found"]


async def test_a_file_that_was_changed_fails_its_batch(place: Place) -> None:
    batch = create(place.store, jsonl(requests(3)))
    place.store.write(batch.entered("in_progress", place.clock.now, total=3))
    place.store.files.path(batch.input_file_id).write_bytes(b"{}\n")
    batch = await place.run(batch, "failed")
    assert [one.code for one in batch.errors] == ["missing_required_parameter"]


async def test_a_disk_that_fails_is_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failures = os.write, iter([True] * 3)

    def fail(descriptor: int, data: memoryview) -> int:
        if next(failures, False):
            write(descriptor, data[:7])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("fledge.batches.results.os.write", fail)
    batch = await place.run(create(place.store, jsonl(requests(5))), "completed")
    assert batch.completed == 5
    assert sorted(answered(place, batch)) == [f"r{n}" for n in range(5)]
    assert set(place.answerer.charged.values()) == {1}


async def test_nothing_is_made_on_the_disk_where_no_file_ever_came(tmp_path: Path) -> None:
    place = Place(tmp_path / "data")
    looks = Looks()
    runner = place.runner(is_draining=looks)
    runner.start()
    await looks.once_more(runner)
    await runner.aclose()
    assert not place.store.is_used()
    assert not (tmp_path / "data").exists()


async def test_a_crash_while_results_become_files_is_mended(place: Place) -> None:
    batch = create(place.store, jsonl(requests(3)))
    place.store.write(batch.entered("in_progress", place.clock.now, total=3))
    done = place.store.find(batch.id, ADMIN)
    output = place.store.output_path(done)
    output.write_bytes(b'{"id":"batch_req_0000000100000003aaaaaaaaaaaaaaaa","custom_id":"r0"}\n')
    concluding = done.entered(
        "finalizing", place.clock.now, ending="completed", completed=1, has_output=True
    )
    place.store.write(concluding)
    # The file was moved, and then the process was killed.
    output.replace(place.store.files.path(done.output_file_id))
    batch = await place.run(batch, "completed")
    assert place.store.files.find(batch.output_file_id, ADMIN).purpose == "batch_output"
    assert answered(place, batch) == ["r0"]
