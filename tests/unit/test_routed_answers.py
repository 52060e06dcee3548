"""The service over a switchboard: what holds of answers from here holds of those from elsewhere."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from fledge.errors import (
    CannotCarry,
    InvalidRequest,
    ProviderRefused,
    ProviderUnavailable,
    UnknownModel,
)
from fledge.prompts import PromptChoice
from fledge.requests import CompareRequest, EmbedRequest
from fledge.routing.options import RouterOptions
from fledge.routing.wishes import Route
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card
from fledge.types import EmbedJob, EmbedResult, Truncation
from tests.unit.cache.fakes import settle
from tests.unit.routed import MODEL, NANOS_OF_A_TOKEN, Routed, down, remote_card

NEBIUS_FIRST = RouterOptions(routes={MODEL: Route(("nebius", "local"), is_alone=True)})
ONE_ROUND = RouterOptions(max_rounds=1)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Who answers


async def test_this_machine_answers_unless_somebody_says_otherwise() -> None:
    place = Routed()
    answer = await place.embed("a")
    assert (answer.card.deployment, place.jobs()) == ("local", {"local": 1})


@pytest.mark.parametrize("deployment", ["local", "nebius", "scaleway"])
@pytest.mark.parametrize("name", [MODEL, "other-name", "name", "ORG/Name"])
async def test_a_suffix_names_the_deployment_whatever_the_model_is_called(
    name: str, deployment: str
) -> None:
    place = Routed()
    answer = await place.embed("a", model=f"{name}:{deployment}")
    assert (answer.card.id, answer.card.deployment) == (MODEL, deployment)
    assert place.jobs() == {deployment: 1}


async def test_a_provider_may_be_asked_by_its_own_name_of_the_model() -> None:
    place = Routed()
    answer = await place.embed("a", model="nebius-name:nebius")
    assert answer.card.deployment == "nebius"


async def test_cheapest_goes_where_a_token_costs_least_and_fastest_where_it_was_fast() -> None:
    options = RouterOptions(routes={MODEL: Route(("nebius", "scaleway"), is_alone=True)})
    place = Routed(options=options)
    place.remote["scaleway"].delay_s = 0.05
    assert (await place.embed("a", model=f"{MODEL}:cheapest")).card.deployment == "scaleway"
    for text in "bc":  # each has been measured then
        await place.embed(text, model=f"{MODEL}:fastest")
    assert (await place.embed("d", model=f"{MODEL}:fastest")).card.deployment == "nebius"


async def test_who_names_a_deployment_gets_it_or_an_error_and_nobody_else() -> None:
    place = Routed(options=ONE_ROUND)
    place.remote["nebius"].error = down("nebius")
    with pytest.raises(ProviderUnavailable):
        await place.embed("a", model=f"{MODEL}:nebius")
    assert place.jobs() == {"nebius": 1}


async def test_a_provider_that_is_not_enabled_is_no_deployment() -> None:
    place = Routed()
    with pytest.raises(UnknownModel, match=r'no provider "together" .* local, nebius, scaleway'):
        await place.embed("a", route=Route.alone("together"))
    assert [record.errors for record in place.notes.records] == [1]


async def test_without_providers_only_this_machine_can_be_named() -> None:
    service = Service.over([FakeBackend(fake_card(id=MODEL))], Settings())
    for route in (Route(), Route.alone("local")):
        answer = await service.embed(EmbedRequest(inputs=["a"], model=MODEL, route=route))
        assert answer.cost_nanos is None
    with pytest.raises(UnknownModel, match="nebius"):
        await service.embed(EmbedRequest(inputs=["a"], model=MODEL, route=Route.alone("nebius")))


async def test_all_of_a_request_is_answered_in_one_place() -> None:
    """The documents of a comparison must not come from elsewhere than its query."""
    place = Routed()
    jobs = iter(range(2))

    class Half(FakeBackend):
        async def embed(self, job: EmbedJob) -> EmbedResult:
            if next(jobs):
                raise down("local")
            return await super().embed(job)

    place.deployments.backends[MODEL] = Half(place.local.card)
    answer = await place.service.compare(CompareRequest(query="a", documents=["b", "a"]))
    assert answer.card.deployment == "nebius"
    assert len(place.remote["nebius"].jobs) == 2
    assert answer.scores[1] == pytest.approx(1)


async def test_what_a_deployment_cannot_carry_another_one_does() -> None:
    place = Routed(options=NEBIUS_FIRST)
    place.remote["nebius"].error = CannotCarry("nebius takes no token ids", field="items[0]")
    answer = await place.embed([5, 6])
    assert answer.card.deployment == "local"
    assert (await place.embed("a", model=f"{MODEL}:local")).card.deployment == "local"
    assert place.remote["nebius"].error is not None  # and it does not rest for that
    with pytest.raises(CannotCarry) as error:
        await place.embed([5, 6], model=f"{MODEL}:nebius", field="input")
    assert error.value.field == "input[0]"


async def test_what_the_caller_caused_is_told_and_asked_of_nobody_else() -> None:
    place = Routed(options=NEBIUS_FIRST)
    refusals = (
        InvalidRequest("`items[1]` is odd", field="items[1]"),
        ProviderRefused("nebius refused it: too odd", provider="nebius", status=422),
    )
    for refusal in refusals:
        place.remote["nebius"].error = refusal
        with pytest.raises(type(refusal)):
            await place.embed("a", "b")
    assert place.jobs() == {"nebius": 2}


# The same answer


async def test_an_answer_from_elsewhere_is_finished_as_one_from_here() -> None:
    facts: list[dict[str, Any]] = [
        {},
        {"dimensions": 3},
        {"normalize": False},
        {"prompt_choice": PromptChoice(input_type="query")},
        {"truncation": Truncation(side="left", max_tokens=4)},
    ]
    for number, fact in enumerate(facts):
        place = Routed()
        texts = [f"text {number}", "a b c d e f"]
        here = await place.embed(*texts, model=f"{MODEL}:local", **fact)
        there = await place.embed(*texts, model=f"{MODEL}:nebius", **fact)
        assert there.vectors.tobytes() == here.vectors.tobytes()
        assert list(there.token_counts) == list(here.token_counts)
        assert (there.prompt, there.truncated_count) == (here.prompt, here.truncated_count)


async def test_prompts_mean_at_a_provider_what_they_mean_here() -> None:
    """The catalogue may know others than the model's own files have."""
    other = remote_card("nebius", prompts={"query": "something else: "})
    place = Routed(cards={"nebius": other})
    choice = PromptChoice(input_type="query")
    await place.embed("a", model=f"{MODEL}:local", prompt_choice=choice)
    await place.embed("a", model=f"{MODEL}:nebius", prompt_choice=choice)
    assert [job.prompt for job in (*place.local.jobs, *place.remote["nebius"].jobs)] == [
        "query: ",
        "query: ",
    ]


class Learning(FakeBackend):
    """Knows the dimension of its vectors when it has made the first."""

    def __init__(self) -> None:
        super().__init__(remote_card("nebius"))
        self._whole, self._card = self._card, replace(self._card, dimension=0)

    async def embed(self, job: EmbedJob) -> EmbedResult:
        self._card = self._whole
        return await super().embed(job)


async def test_a_dimension_that_nobody_knew_is_known_with_the_first_answer() -> None:
    place = Routed(runs_locally=False)
    first = Learning()
    place.remote["nebius"] = first
    place.service.switch_through(place.switchboard(ONE_ROUND))
    assert first.card.dimension == 0
    answer = await place.embed("a", dimensions=3)
    assert (answer.card.dimension, answer.vectors.shape) == (8, (1, 3))
    assert "declares no shorter dimensions" in answer.warnings[0]
    with pytest.raises(InvalidRequest, match="takes 1 to 8"):
        await place.embed("b", dimensions=9)


async def test_too_many_dimensions_are_refused_though_they_were_not_known_before() -> None:
    place = Routed(runs_locally=False)
    place.remote["nebius"] = Learning()
    place.service.switch_through(place.switchboard(ONE_ROUND))
    with pytest.raises(InvalidRequest, match="takes 1 to 8"):
        await place.embed("a", dimensions=9)


class Unit(FakeBackend):
    """Has vectors of length 1 only, and does not count tokens."""

    async def embed(self, job: EmbedJob) -> EmbedResult:
        result = await super().embed(job)
        return replace(result, normalized=True, counts_estimated=True)


async def test_tokens_that_are_estimated_are_warned_of() -> None:
    place = Routed()
    place.remote["nebius"] = Unit(remote_card("nebius"))
    place.service.switch_through(place.switchboard(ONE_ROUND))
    warning = "nebius does not say how many tokens there were: estimated"
    for _ in range(2):  # also when they come out of the cache
        answer = await place.embed("a", model=f"{MODEL}:nebius")
        assert answer.warnings == (warning,)
    assert (await place.embed("a", model=f"{MODEL}:local")).warnings == ()


async def test_raw_vectors_come_from_where_there_are_some_and_never_normalized_ones_for_them(
) -> None:  # fmt: skip
    place = Routed()
    place.remote["nebius"] = Unit(remote_card("nebius"))
    place.service.switch_through(place.switchboard(NEBIUS_FIRST))
    assert (await place.embed("a")).card.deployment == "nebius"
    assert (await place.embed("a", normalize=False)).card.deployment == "local"
    with pytest.raises(CannotCarry) as error:
        await place.embed("a", normalize=False, model=f"{MODEL}:nebius")
    assert error.value.field == "normalize"


# What it costs


async def test_usage_tells_the_deployment_and_what_it_cost() -> None:
    place = Routed()
    for deployment in ("nebius", "scaleway", "local"):
        await place.embed("a b", "c", model=f"{MODEL}:{deployment}")  # 4 + 3 tokens
    found = [(one.deployment, one.tokens, one.cost_nanos) for one in place.notes.records]
    assert found == [
        (name, 7, 7 * NANOS_OF_A_TOKEN.get(name, 0)) for name in ("nebius", "scaleway", "local")
    ]


async def test_what_was_computed_before_or_beside_costs_nothing() -> None:
    place = Routed()
    name, price = f"{MODEL}:nebius", NANOS_OF_A_TOKEN["nebius"]
    assert (await place.embed("a", "a", model=name)).cost_nanos == 3 * price
    answer = await place.embed("a", "b c", model=name)
    assert (answer.hit_count, answer.cost_nanos) == (1, 4 * price)
    place.remote["nebius"].hold()
    tasks = [place.begin("d", model=name) for _ in range(5)]
    await settle()
    place.remote["nebius"].release()
    costs = [one.cost_nanos for one in await asyncio.gather(*tasks)]
    assert sorted(costs, key=str) == [0, 0, 0, 0, 3 * price]


async def test_the_failure_of_another_costs_nothing_and_is_no_error_of_the_request() -> None:
    place = Routed(options=NEBIUS_FIRST)
    place.remote["nebius"].error = down("nebius")
    assert (await place.embed("a")).cost_nanos == 0
    assert [(one.deployment, one.errors) for one in place.notes.records] == [("local", 0)]


async def test_a_provider_whose_budget_is_spent_is_passed_over_and_named_alone_refused() -> None:
    place = Routed(options=NEBIUS_FIRST, budgets={"nebius": 3 * NANOS_OF_A_TOKEN["nebius"]})
    assert (await place.embed("a")).card.deployment == "nebius"
    assert (await place.embed("b")).card.deployment == "local"
    with pytest.raises(ProviderUnavailable, match="spent"):
        await place.embed("c", model=f"{MODEL}:nebius")
    assert len(place.remote["nebius"].jobs) == 1


# The cache


async def test_no_deployment_gets_what_another_one_has_computed() -> None:
    place = Routed()
    for deployment in ("local", "nebius", "scaleway"):
        assert (await place.embed("a", model=f"{MODEL}:{deployment}")).hit_count == 0
    for deployment in ("local", "nebius", "scaleway"):
        answer = await place.embed("a", model=f"{MODEL}:{deployment}")
        assert (answer.hit_count, answer.card.deployment) == (1, deployment)
    assert place.jobs() == {"local": 1, "nebius": 1, "scaleway": 1}


async def test_what_is_under_way_at_one_deployment_is_joined_by_nobody_of_another() -> None:
    place = Routed()
    for backend in (place.local, place.remote["nebius"]):
        backend.hold()
    tasks = [place.begin("a", model=f"{MODEL}:{name}") for name in ("local", "nebius") * 2]
    await settle()
    for backend in (place.local, place.remote["nebius"]):
        backend.release()
    found = [one.card.deployment for one in await asyncio.gather(*tasks)]
    assert found == ["local", "nebius"] * 2
    assert place.jobs() == {"local": 1, "nebius": 1}


async def test_those_who_share_what_fails_fall_back_together() -> None:
    place = Routed(options=NEBIUS_FIRST)
    place.remote["nebius"].hold()
    place.remote["nebius"].error = down("nebius")
    tasks = [place.begin("a") for _ in range(5)]
    await settle()
    place.remote["nebius"].release()
    found = {one.card.deployment for one in await asyncio.gather(*tasks)}
    assert (found, place.jobs()) == ({"local"}, {"nebius": 1, "local": 1})


def test_whole_answers_that_are_repeated_never_cross_deployments() -> None:
    place = Routed()
    with place.client() as client:
        for _ in range(4):
            for path in ("/v1", "/local/v1", "/nebius/v1", "/scaleway/v1/openai"):
                response = client.post(f"{path}/embeddings", json={"input": "a", "model": MODEL})
                asked = path.split("/")[1].replace("v1", "local")
                assert response.headers["x-fledge-provider"] == asked
    assert place.jobs() == {"local": 1, "nebius": 1, "scaleway": 1}
