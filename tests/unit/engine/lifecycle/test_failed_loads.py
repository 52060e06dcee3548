"""A load that fails fails for all who wait, is remembered, and is told without secrets."""

import asyncio
import logging
from pathlib import Path

import pytest

from fledge.engine.lifecycle.slots import MAX_REMEMBERED
from fledge.errors import (
    BackendUnavailable,
    CorruptModel,
    ModelGated,
    ModelLoadError,
    ModelNotFound,
    OutOfMemory,
)
from fledge.types import Health
from tests.unit.engine.lifecycle.fakes import (
    BUILD,
    MB,
    Holding,
    World,
    entry,
    settle,
)

pytestmark = pytest.mark.anyio


async def test_fifty_who_wait_for_a_load_that_fails_all_get_the_reason() -> None:
    world = World()
    world.aside.hold(BUILD)
    world.loader.load_errors["a"] = CorruptModel("a/model.safetensors is cut off")
    waiting = [asyncio.create_task(world.touch("a")) for _ in range(50)]
    await settle()
    world.aside.let_go(BUILD)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(error) for error in errors} == {CorruptModel}
    assert {str(error) for error in errors} == {"a/model.safetensors is cut off"}
    assert len({id(error) for error in errors}) == 50  # each with a traceback of its own
    assert world.loader.tried == ["a"]
    assert world.lifecycle.charged_bytes == 0


async def test_a_failure_is_remembered_for_its_cool_down() -> None:
    world = World()
    world.loader.find_errors["a"] = ModelGated("accept the conditions")
    with pytest.raises(ModelGated):
        await world.touch("a")
    world.clock.now_s += 599
    with pytest.raises(ModelGated, match="accept the conditions") as error:
        await world.touch("a")
    assert error.value.retry_after_s == pytest.approx(1)
    assert world.loader.found == ["a"]
    world.clock.now_s += 1
    del world.loader.find_errors["a"]
    await world.touch("a")
    assert world.state("a") == "warm"


async def test_the_status_of_a_failed_model_has_the_reason_and_when_to_come_back() -> None:
    world = World()
    world.loader.find_errors["a"] = ModelNotFound("/models/a/config.json is not there")
    with pytest.raises(ModelNotFound):
        await world.touch("a")
    world.clock.now_s += 100
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.failure, status.memory_bytes) == ("failed", "not_found", 0)
    assert status.reason == "config.json is not there"
    assert status.retry_in_s == pytest.approx(500)
    assert world.lifecycle.problems() == {}
    world.clock.now_s += 1000
    assert world.lifecycle.status(entry("a")).retry_in_s == 0


async def test_a_failure_of_one_model_is_nothing_to_another() -> None:
    world = World()
    world.loader.load_errors["a"] = MemoryError()
    with pytest.raises(OutOfMemory, match="MemoryError; the server's log says why"):
        await world.touch("a")
    await world.touch("b")


async def test_an_explicit_load_does_not_wait_for_the_cool_down() -> None:
    world = World()
    world.loader.load_errors["a"] = CorruptModel("cut off")
    with pytest.raises(CorruptModel):
        await world.lifecycle.load(entry("a"))
    with pytest.raises(CorruptModel):
        await world.lifecycle.load(entry("a"))
    del world.loader.load_errors["a"]
    status = await world.lifecycle.load(entry("a"))
    assert (status.state, status.users, status.reason) == ("warm", 0, "")
    assert (await world.lifecycle.load(entry("a"))).state == "warm"
    assert world.loader.tried == ["a"] * 3


async def test_the_log_has_all_of_an_error_once_and_callers_have_less(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.loader.load_errors["a"] = ValueError("the secret of /home/me")
    for _ in range(3):
        with pytest.raises(ModelLoadError) as error:
            await world.touch("a")
        assert "secret" not in str(error.value)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "the secret of /home/me" in record.getMessage()
    assert record.exc_info


async def test_a_model_whose_backend_died_is_a_problem_and_takes_no_requests() -> None:
    world = World()
    await world.touch("a", "b")
    world.loader.models["a"].state = Health("failed", "the compute lane died")
    assert world.lifecycle.problems() == {"a": "the compute lane died"}
    status = world.lifecycle.status(entry("a"))
    assert (status.state, status.reason) == ("failed", "the compute lane died")
    with pytest.raises(BackendUnavailable, match="the compute lane died"):
        await world.touch("a")
    await world.touch("b")


async def test_an_explicit_load_replaces_a_model_whose_backend_died() -> None:
    world = World()
    await world.touch("a")
    world.loader.models["a"].state = Health("failed", "the compute lane died")
    assert (await world.lifecycle.load(entry("a"))).state == "warm"
    assert world.lifecycle.problems() == {}
    assert (world.loader.loaded, world.loader.closed) == (["a", "a"], ["a"])


async def test_a_model_that_is_stuck_takes_requests_again_when_it_goes_on() -> None:
    world = World()
    await world.touch("a")
    world.loader.models["a"].state = Health("failed", "it is stuck", may_recover=True)
    assert world.lifecycle.problems() == {"a": "it is stuck"}
    with pytest.raises(BackendUnavailable, match="it is stuck"):
        await world.touch("a")
    with pytest.raises(BackendUnavailable, match="it is stuck"):  # loading would change nothing
        await world.lifecycle.load(entry("a"))
    world.loader.models["a"].state = Health("warm")
    await world.touch("a")
    assert world.loader.loaded == ["a"]


async def test_what_is_remembered_of_models_that_are_not_here_is_bounded() -> None:
    world = World(budget_bytes=1000 * MB)
    await world.touch("warm")
    world.lifecycle.pin(entry("pinned"), is_pinned=True)
    world.aside.hold(BUILD)
    waiting = Holding(world, "loading")
    await settle()
    for number in range(MAX_REMEMBERED + 50):
        world.loader.find_errors[f"m{number}"] = ModelNotFound("no")
        with pytest.raises(ModelNotFound):
            await world.touch(f"m{number}")
    states = [world.state(f"m{number}") for number in range(MAX_REMEMBERED + 50)]
    assert states.count("failed") == MAX_REMEMBERED - 3
    assert states[-1] == "failed"
    assert states[0] == "cold"
    assert world.state("warm") == "warm"
    assert world.state("loading") == "loading"
    assert world.lifecycle.status(entry("pinned")).is_pinned
    waiting.task.cancel()


async def test_a_failure_that_is_asked_for_again_and_again_is_not_forgotten_before_others() -> None:
    world = World()
    for number in range(MAX_REMEMBERED + 10):
        world.loader.find_errors[f"m{number}"] = ModelNotFound("no")
        for name in ("m0", f"m{number}"):
            with pytest.raises(ModelNotFound):
                await world.touch(name)
    assert world.state("m0") == "failed"
    assert world.loader.found.count("m0") == 1


async def test_callers_are_told_the_model_in_the_place_of_its_folder() -> None:
    world = World()
    world.loader.load_errors["org/a"] = CorruptModel("/models/org/a/x.json is cut off")
    with pytest.raises(CorruptModel, match=r"^org/a/x.json is cut off$"):
        await world.touch("org/a")
    world.loader.find_errors["mine"] = ModelNotFound("there is no folder /srv/my models/one")
    folder = Path("/srv/my models/one")
    with pytest.raises(ModelNotFound, match=r"^there is no folder mine$"):
        await world.lifecycle.load(entry("mine", folder=folder))
