"""The use cases against a fake backend: what is resolved, checked, merged and finished."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from fledge.errors import (
    ComputeError,
    EmptyInput,
    InputTooLong,
    InvalidRequest,
    Overloaded,
    TooManyInputs,
    UnknownModel,
)
from fledge.prompts import Prompt, PromptChoice
from fledge.requests import CompareRequest, EmbedRequest, EmbedResponse
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card
from fledge.types import EmbedJob, EmbedResult, Health, Item, Truncation
from fledge.vectors import lengths


def embed(backend: FakeBackend, request: EmbedRequest, **settings: object) -> EmbedResponse:
    service = Service.over([backend], Settings(**settings))
    return asyncio.run(service.embed(request))


@pytest.mark.parametrize(
    "name", ["org/Name", "ORG/name", "name", "Name", "org/name:fastest", "name:cheapest", None]
)
def test_a_model_answers_to_its_id_in_any_case_bare_or_with_a_policy(name: str | None) -> None:
    service = Service.over([FakeBackend(fake_card(id="org/Name"))], Settings())
    assert service.model(name).id == "org/Name"


def test_a_full_id_wins_over_a_bare_name() -> None:
    first, second = FakeBackend(fake_card(id="org/name")), FakeBackend(fake_card(id="name"))
    service = Service.over([first, second], Settings())
    assert service.model("name").card is second.card
    assert service.model(None).card is first.card


@pytest.mark.parametrize("name", ["other/name", "", ":", "nam", "name/"])
def test_an_unknown_model_is_refused_with_the_list_of_those_served(name: str) -> None:
    service = Service.over([FakeBackend(fake_card(id="org/name"))], Settings())
    with pytest.raises(UnknownModel, match="served: org/name"):
        service.model(name)


def test_without_a_choice_no_prompt_is_applied() -> None:
    backend = FakeBackend()
    assert embed(backend, EmbedRequest(inputs=["a"])).prompt == Prompt()
    assert (backend.jobs[0].prompt, backend.jobs[0].side) == (None, None)


def test_the_default_prompt_of_the_card_is_applied_and_told() -> None:
    backend = FakeBackend(fake_card(default_prompt_name="query"))
    assert embed(backend, EmbedRequest(inputs=["a"])).prompt.name == "query"
    assert backend.jobs[0].prompt == "query: "


@pytest.mark.parametrize("side", ["query", "document"])
def test_the_prompt_and_the_side_of_an_input_type_reach_the_backend(side: str) -> None:
    backend = FakeBackend()
    request = EmbedRequest(inputs=["a"], prompt_choice=PromptChoice(input_type=side))
    assert embed(backend, request).prompt.name == side
    assert (backend.jobs[0].prompt, backend.jobs[0].side) == (f"{side}: ", side)


def test_token_ids_have_a_side_and_no_prompt_is_told_of_where_there_was_nothing_else() -> None:
    backend = FakeBackend()
    request = EmbedRequest(inputs=[[5, 6]], prompt_choice=PromptChoice(input_type="query"))
    assert embed(backend, request).prompt == Prompt()
    assert backend.jobs[0].side == "query"


def test_a_prompt_of_the_callers_own_counts_as_if_it_were_written_before_each_text() -> None:
    choice = PromptChoice(prompt="x" * 500)
    backend = FakeBackend()
    two = EmbedRequest(inputs=["a", [5], "b"], prompt_choice=choice)
    embed(backend, two, max_body_bytes=1024)
    assert backend.jobs[0].prompt == "x" * 500
    with pytest.raises(InvalidRequest, match=r"`prompt` before 3 texts makes 1500 .* most 1024"):
        embed(backend, replace(two, inputs=["a", "b", "a"]), max_body_bytes=1024)


@pytest.mark.parametrize(
    ("inputs", "field"),
    [([], "input"), ([""], "input[0]"), (["a", "b", ""], "input[2]"), (["a", []], "input[1]")],
)
def test_an_empty_input_is_refused_by_its_place(inputs: list[str], field: str) -> None:
    with pytest.raises(EmptyInput) as caught:
        embed(FakeBackend(), EmbedRequest(inputs=inputs, field="input"))
    assert caught.value.field == field
    assert f"`{field}`" in str(caught.value)


def test_a_single_empty_input_is_named_without_an_index() -> None:
    with pytest.raises(EmptyInput) as caught:
        embed(FakeBackend(), EmbedRequest(inputs=[""], field="input", is_single=True))
    assert caught.value.field == "input"


def test_white_space_is_an_input() -> None:
    assert embed(FakeBackend(), EmbedRequest(inputs=[" \n"])).vectors.shape == (1, 8)


def test_too_many_inputs_are_refused_with_the_limit_and_the_count() -> None:
    with pytest.raises(TooManyInputs, match="has 3 entries; one request takes at most 2"):
        embed(FakeBackend(), EmbedRequest(inputs=["a", "b", "c"]), max_inputs_per_request=2)


def test_the_backend_is_told_the_most_tokens_of_a_request() -> None:
    backend = FakeBackend()
    embed(backend, EmbedRequest(inputs=["a"]), max_tokens_per_request=77)
    assert backend.jobs[0].max_total_tokens == 77


def test_equal_texts_do_not_slip_under_the_limit_of_tokens() -> None:
    with pytest.raises(TooManyInputs, match="has 9 tokens; one request takes at most 8"):
        embed(FakeBackend(), EmbedRequest(inputs=["a"] * 3), max_tokens_per_request=8)


@pytest.mark.parametrize("ids", [[-1], [5, 1000], [2**63]])
def test_a_token_id_outside_the_vocabulary_is_refused_by_its_place(ids: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="token ids of fledge/fake are 0 to 999") as caught:
        embed(FakeBackend(), EmbedRequest(inputs=["a", ids]))
    assert caught.value.field == f"inputs[1][{len(ids) - 1}]"


def test_equal_inputs_are_computed_once_and_counted_each_time() -> None:
    backend = FakeBackend()
    inputs: list[Item] = ["one two", [7, 8], "three", "one two", [7, 8]]
    response = embed(backend, EmbedRequest(inputs=inputs))
    assert list(backend.jobs[0].items) == ["one two", [7, 8], "three"]
    assert list(response.token_counts) == [4, 2, 3, 4, 2]
    assert np.array_equal(response.vectors[[0, 1]], response.vectors[[3, 4]])
    alone = [embed(FakeBackend(), EmbedRequest(inputs=[one])).vectors[0] for one in inputs]
    assert np.array_equal(response.vectors, np.stack(alone))


def test_an_error_about_an_item_names_it_as_the_caller_counts() -> None:
    inputs = ["a", "a", "a", "word " * 30]
    request = EmbedRequest(inputs=inputs, truncation=Truncation(refuse=True), field="input")
    with pytest.raises(InputTooLong, match=r"`input\[3\]` has 32 tokens") as caught:
        embed(FakeBackend(), request)
    assert caught.value.field == "input[3]"


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        (PromptChoice(), "input_type"),
        (PromptChoice(input_type="query"), "input_type"),
        (PromptChoice(task="query"), "task"),
        (
            PromptChoice(input_type="query", paths={"input_type": "parameters.input_type"}),
            "parameters.input_type",
        ),
    ],
)
def test_an_error_about_the_side_names_the_field_that_the_caller_chose_it_with(
    choice: PromptChoice, field: str
) -> None:
    """As a router refuses a side that it has no route for."""
    backend = FakeBackend()
    backend.error = InvalidRequest("no route: send another `input_type`", field="input_type")
    with pytest.raises(InvalidRequest) as caught:
        embed(backend, EmbedRequest(inputs=["a"], prompt_choice=choice, field="input"))
    assert (str(caught.value), caught.value.field) == (
        f"no route: send another `{field}`",
        field,
    )


def test_an_error_about_the_documents_side_names_the_documents_field() -> None:
    class QueriesOnly(FakeBackend):
        async def embed(self, job: EmbedJob) -> EmbedResult:
            if job.side == "document":
                raise InvalidRequest("send another `input_type`", field="input_type")
            return await super().embed(job)

    choice = PromptChoice(prefix="document_")
    request = CompareRequest(query="a", documents=["b"], document_prompt_choice=choice)
    with pytest.raises(InvalidRequest, match="send another `document_input_type`") as caught:
        compare(QueriesOnly(), request)
    assert caught.value.field == "document_input_type"


def test_an_error_about_no_field_is_about_the_inputs() -> None:
    backend = FakeBackend()
    backend.error = InvalidRequest("too much")
    with pytest.raises(InvalidRequest, match="`input`: too much") as caught:
        embed(backend, EmbedRequest(inputs=["a"], field="input"))
    assert caught.value.field == "input"


def test_truncated_inputs_are_counted() -> None:
    response = embed(FakeBackend(), EmbedRequest(inputs=["word " * 30, "a", "word " * 30]))
    assert response.truncated_count == 2


@pytest.mark.parametrize("dimensions", [0, -1, 9, 2**70])
def test_dimensions_out_of_range_are_refused_with_the_range(dimensions: int) -> None:
    with pytest.raises(InvalidRequest, match=f"`dimensions` is {dimensions}; .* takes 1 to 8"):
        embed(FakeBackend(), EmbedRequest(inputs=["a"], dimensions=dimensions))


def test_a_cut_vector_is_the_normalized_beginning_of_the_whole() -> None:
    backend = FakeBackend()
    whole = embed(backend, EmbedRequest(inputs=["a"], normalize=False)).vectors
    cut = embed(backend, EmbedRequest(inputs=["a"], dimensions=3)).vectors
    raw = embed(backend, EmbedRequest(inputs=["a"], dimensions=3, normalize=False)).vectors
    assert np.array_equal(raw, whole[:, :3])
    assert np.allclose(cut, raw / np.linalg.norm(raw))


def test_a_cut_is_warned_of_where_the_card_declares_none() -> None:
    request = EmbedRequest(inputs=["a"], dimensions=3)
    assert "declares no shorter dimensions" in embed(FakeBackend(), request).warnings[0]
    declared = FakeBackend(fake_card(matryoshka_dimensions=(4, 8)))
    assert embed(declared, request).warnings == ()
    assert embed(FakeBackend(), replace(request, dimensions=8)).warnings == ()


@pytest.mark.parametrize(
    ("normalize", "facts", "is_normalized"),
    [
        ("model", {"normalizes": True}, True),
        ("model", {"normalizes": False}, False),
        ("similarity", {"normalizes": False}, True),
        ("similarity", {"normalizes": False, "similarity": "dot"}, False),
        ("similarity", {"normalizes": True, "similarity": "dot"}, True),
        (True, {"normalizes": False}, True),
        (False, {"normalizes": True}, False),
    ],
)
def test_normalization_follows_the_request_then_the_card(
    normalize: bool, facts: dict[str, object], is_normalized: bool
) -> None:
    backend = FakeBackend(fake_card(**facts))  # type: ignore[arg-type] # facts of the card
    vectors = embed(backend, EmbedRequest(inputs=["a"], normalize=normalize)).vectors
    assert (abs(lengths(vectors)[0] - 1) < 1e-6) == is_normalized


def test_a_vector_that_is_not_finite_never_leaves() -> None:
    class Broken(FakeBackend):
        async def embed(self, job: EmbedJob) -> EmbedResult:
            result = await super().embed(job)
            result.vectors[0, 0] = np.nan
            return result

    with pytest.raises(ComputeError, match="not finite"):
        embed(Broken(), EmbedRequest(inputs=["a"]))


def test_deadline_priority_and_truncation_reach_the_backend() -> None:
    backend = FakeBackend()
    cut = Truncation(side="left", max_tokens=5)
    before = time.monotonic()
    embed(backend, EmbedRequest(inputs=["a"], timeout_s=60, priority=3, truncation=cut))
    job = backend.jobs[0]
    assert (job.priority, job.truncation) == (3, cut)
    assert job.deadline is not None
    assert before + 60 <= job.deadline <= time.monotonic() + 60


def compare(backend: FakeBackend, request: CompareRequest) -> list[float]:
    response = asyncio.run(Service.over([backend], Settings()).compare(request))
    assert response.card is backend.card
    return [float(score) for score in response.scores]


def test_comparing_scores_each_document_in_order() -> None:
    scores = compare(FakeBackend(), CompareRequest(query="a", documents=["b", "a", "b"]))
    assert scores[1] == pytest.approx(1)
    assert scores[0] == scores[2] < 1


def test_a_ranking_is_best_first_and_keeps_the_order_of_ties() -> None:
    service = Service.over([FakeBackend()], Settings())
    request = CompareRequest(query="a", documents=["b", "a", "b"])
    response = asyncio.run(service.compare(request))
    assert [index for index, _ in response.ranking()] == [1, 0, 2]
    assert [index for index, _ in response.ranking(2)] == [1, 0]


def test_scores_follow_the_similarity_of_the_card() -> None:
    backend = FakeBackend(fake_card(similarity="euclidean", normalizes=False))
    assert compare(backend, CompareRequest(query="a", documents=["a", "b"]))[0] == 0
    assert max(compare(backend, CompareRequest(query="a", documents=["b"]))) < 0


def test_query_and_documents_get_their_own_prompts_and_sides() -> None:
    backend = FakeBackend()
    request = CompareRequest(
        query="a",
        documents=["b"],
        query_prompt_choice=PromptChoice(prompt_name="query"),
        document_prompt_choice=PromptChoice(prompt_name="document"),
    )
    compare(backend, request)
    assert [(job.prompt, job.side) for job in backend.jobs] == [
        ("query: ", "query"),
        ("document: ", "document"),
    ]


def test_an_input_type_moves_both_parts_of_a_comparison_to_its_side() -> None:
    backend = FakeBackend()
    choice = PromptChoice(input_type="document")
    request = CompareRequest(
        query="a", documents=["b"], query_prompt_choice=choice, document_prompt_choice=choice
    )
    compare(backend, request)
    assert [(job.prompt, job.side) for job in backend.jobs] == [("document: ", "document")] * 2


def test_the_documents_prompt_counts_before_each_document() -> None:
    long = PromptChoice(prompt="x" * 500, prefix="document_")
    request = CompareRequest(query="a", documents=["b"] * 3, document_prompt_choice=long)
    with pytest.raises(InvalidRequest, match="`document_prompt` before 3 texts makes 1500"):
        asyncio.run(Service.over([FakeBackend()], Settings(max_body_bytes=1024)).compare(request))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (CompareRequest(query="", documents=["a"]), "query"),
        (CompareRequest(query="a", documents=[]), "documents"),
        (CompareRequest(query="a", documents=["b", ""]), "documents[1]"),
    ],
)
def test_an_empty_part_of_a_comparison_is_named(request_: CompareRequest, field: str) -> None:
    with pytest.raises(EmptyInput) as caught:
        compare(FakeBackend(), request_)
    assert caught.value.field == field


def test_a_comparison_raises_the_backends_error_itself() -> None:
    backend = FakeBackend()
    backend.error = Overloaded("busy", retry_after_s=1)
    with pytest.raises(Overloaded):
        compare(backend, CompareRequest(query="a", documents=["b"]))


def test_a_cancelled_comparison_leaves_the_queue() -> None:
    backend = FakeBackend()
    backend.hold()

    async def scenario() -> None:
        request = CompareRequest(query="a", documents=["b"])
        task = asyncio.create_task(Service.over([backend], Settings()).compare(request))
        await asyncio.sleep(0.02)
        assert len(backend.jobs) == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert backend.cancelled == 2


def test_closing_closes_every_backend_even_when_one_fails() -> None:
    class Stubborn(FakeBackend):
        async def aclose(self) -> None:
            raise RuntimeError("no")

    other = FakeBackend(fake_card(id="other"))
    with pytest.raises(RuntimeError):
        asyncio.run(Service.over([other, Stubborn()], Settings()).aclose())
    assert other.is_closed


def test_a_model_that_cannot_take_work_is_a_problem_with_its_reason() -> None:
    broken, fine = FakeBackend(), FakeBackend(fake_card(id="fine"))
    broken.state = Health("failed", "disk")
    assert Service.over([broken, fine], Settings()).problems() == {"fledge/fake": "disk"}
