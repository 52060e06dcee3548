"""Static models, from their folder to vectors: every way to store a table, and every limit."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.engine import admission
from fledge.engine import static as static_module
from fledge.engine.chain import Routing, read_chain
from fledge.engine.sources import ModelFolder
from fledge.engine.static import INLINE_CHARS, StaticBackend, make_static_backend
from fledge.engine.static_recipe import MAX_TOKENS, read_static
from fledge.errors import (
    BackendUnavailable,
    ComputeError,
    DeadlineExceeded,
    InputTooLong,
    InvalidRequest,
    Overloaded,
    TooManyInputs,
)
from fledge.types import EmbedJob, EmbedResult, Item, Truncation
from tests.static_folders import (
    UNKNOWN,
    draw,
    save_module,
    save_static,
    save_words,
    write,
)

VOCAB, SIZE = 30, 6
TABLE = draw(VOCAB, SIZE)


def load(folder: Path, *, max_queued_tokens: int = 10**6) -> StaticBackend:
    chain = read_chain(folder)
    assert not isinstance(chain, Routing)
    return make_static_backend(
        ModelFolder(folder, "test/static", "abc", "a test"),
        read_static(folder, chain),
        max_queued_tokens=max_queued_tokens,
    )


def embed(backend: StaticBackend, *items: Item, **options: Any) -> EmbedResult:
    return asyncio.run(backend.embed(EmbedJob(items=items, **options)))


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticBackend]:
    folder = save_static(
        tmp_path_factory.mktemp("static"), {"embedding.weight": TABLE}, vocab=VOCAB
    )
    speech = {"prompts": {"query": "w20 w21 "}, "default_prompt_name": "query"}
    write(folder / "config_sentence_transformers.json", speech)
    backend = load(folder)
    yield backend
    backend.close()


def test_a_vector_is_the_mean_of_the_rows_of_its_tokens(backend: StaticBackend) -> None:
    result = embed(backend, "w5 w7 w7", "w9", "nothing known w2")
    assert np.allclose(result.vectors[0], (TABLE[5] + 2 * TABLE[7]) / 3, atol=1e-6)
    assert np.allclose(result.vectors[1], TABLE[9], atol=1e-6)
    assert np.allclose(result.vectors[2], (2 * TABLE[UNKNOWN] + TABLE[2]) / 3, atol=1e-6)
    assert result.vectors.dtype == np.float32
    assert list(result.token_counts) == [3, 1, 3]
    assert list(result.truncated) == [False] * 3
    assert not result.normalized


def test_the_card_says_what_the_folder_says(backend: StaticBackend) -> None:
    card = backend.card
    assert (card.id, card.revision, card.origin) == ("test/static", "abc", "a test")
    assert (card.family, card.precision, card.dimension) == ("static", "fp32", SIZE)
    assert (card.max_seq_length, card.vocab_size) == (MAX_TOKENS, VOCAB)
    assert (card.prompts, card.default_prompt_name) == ({"query": "w20 w21 "}, "query")
    assert card.pooling == ("mean",)
    assert card.normalizes


def test_a_text_without_tokens_is_a_vector_of_zeros(backend: StaticBackend) -> None:
    result = embed(backend, "w4", "", "   ", "w5")
    assert not result.vectors[1:3].any()
    assert np.allclose(result.vectors[3], TABLE[5])
    assert list(result.token_counts) == [1, 0, 0, 1]


def test_a_prompt_stands_before_texts_and_not_before_ids(backend: StaticBackend) -> None:
    result = embed(backend, "w4", [4], prompt="w20 w21 ")
    assert np.allclose(result.vectors[0], TABLE[[20, 21, 4]].mean(axis=0), atol=1e-6)
    assert np.allclose(result.vectors[1], TABLE[4])
    assert list(result.token_counts) == [3, 1]


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        (Truncation(max_tokens=2), [4, 5]),
        (Truncation(max_tokens=2, side="right"), [4, 5]),
        (Truncation(max_tokens=2, side="left"), [6, 7]),
        (Truncation(max_tokens=4, side="left"), [4, 5, 6, 7]),
        (Truncation(max_tokens=9), [4, 5, 6, 7]),
    ],
)
def test_texts_and_ids_are_cut_on_the_side_that_the_caller_chose(
    truncation: Truncation, kept: list[int], backend: StaticBackend
) -> None:
    result = embed(backend, "w4 w5 w6 w7", [4, 5, 6, 7], truncation=truncation)
    for vector in result.vectors:
        assert np.allclose(vector, TABLE[kept].mean(axis=0), atol=1e-6)
    assert list(result.token_counts) == [len(kept)] * 2
    assert list(result.truncated) == [len(kept) < 4] * 2


def test_a_text_that_is_too_long_can_be_refused(backend: StaticBackend) -> None:
    refuse = Truncation(max_tokens=2, refuse=True)
    assert list(embed(backend, "w4 w5", truncation=refuse).token_counts) == [2]
    for item in ("w4 w5 w6", [4, 5, 6]):
        with pytest.raises(InputTooLong, match=r"items\[1\]. has 3 tokens; .* at most 2"):
            embed(backend, "w4", item, truncation=refuse)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_without_room_for_anything_is_refused(limit: int, backend: StaticBackend) -> None:
    with pytest.raises(InvalidRequest, match="no room"):
        embed(backend, "w4", truncation=Truncation(max_tokens=limit))


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_a_token_id_outside_of_the_vocabulary_is_named(token: int, backend: StaticBackend) -> None:
    with pytest.raises(InvalidRequest, match=rf"items\[1\]. has the token id {token}; .* 0 to 29"):
        embed(backend, "w4", [5, token])


def test_half_of_a_surrogate_pair_is_refused_by_its_place(backend: StaticBackend) -> None:
    with pytest.raises(InvalidRequest, match=r"items\[1\]. is not valid Unicode"):
        embed(backend, "w4", "w\ud800")
    with pytest.raises(InvalidRequest, match=r"items\[0\]. is not valid Unicode"):
        asyncio.run(backend.tokenize(["\udc00"]))


def test_tokens_come_with_their_places_and_without_special_ones(backend: StaticBackend) -> None:
    (tokens,) = asyncio.run(backend.tokenize(["w5  w6"], prompt="w2 "))
    assert list(tokens.ids) == [2, 5, 6]
    assert list(tokens.offsets) == [(0, 2), (3, 5), (7, 9)]


def test_a_text_in_a_large_job_equals_the_text_alone_whatever_the_groups_are(
    backend: StaticBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    lengths = [0, 1, 2, 300, 0, 5, 1200, 7]
    items: list[Item] = [random.integers(0, VOCAB, length).tolist() for length in lengths]
    items += [" ".join(f"w{n}" for n in random.integers(2, VOCAB, 40)) for _ in range(9)]
    alone = [embed(backend, item).vectors[0] for item in items]
    monkeypatch.setattr(static_module, "GROUP_CHARS", 100)
    assert np.abs(embed(backend, *items).vectors - alone).max() <= 1e-6
    monkeypatch.setattr(static_module, "GROUP_CHARS", 10**6)
    monkeypatch.setattr(static_module, "GROUP_NUMBERS", 2 * SIZE)
    assert np.abs(embed(backend, *items).vectors - alone).max() <= 1e-6


def test_the_place_of_an_item_is_told_in_whatever_group_it_is(
    backend: StaticBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_module, "GROUP_NUMBERS", 2 * SIZE)
    with pytest.raises(InvalidRequest) as raised:
        embed(backend, "w4", "w5", "w6", "w7", [VOCAB])
    assert raised.value.field == "items[4]"


def test_too_many_tokens_in_all_are_refused(backend: StaticBackend) -> None:
    assert len(embed(backend, "w4 w5", [6, 7], max_total_tokens=4).vectors) == 2
    with pytest.raises(TooManyInputs, match="have 4 tokens in all; at most 3"):
        embed(backend, "w4 w5", [6, 7], max_total_tokens=3)


def test_work_stops_where_there_are_too_many_tokens(
    backend: StaticBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_module, "GROUP_NUMBERS", SIZE)
    with pytest.raises(TooManyInputs, match="have at least 4 tokens in all; at most 3"):
        embed(backend, "w4 w5", "w6 w7", "w8 w9", max_total_tokens=3)
    with pytest.raises(TooManyInputs, match="have 6 tokens in all; at most 5"):
        embed(backend, "w4 w5", "w6 w7", "w8 w9", max_total_tokens=5)


def test_a_text_with_far_too_many_tokens_is_refused_by_its_beginning(
    backend: StaticBackend,
) -> None:
    with pytest.raises(TooManyInputs, match=r"have at least \d+ tokens in all; at most 500 may"):
        embed(backend, "w4 " * 10**6, max_total_tokens=500)


def test_a_deadline_that_has_passed_is_an_error(backend: StaticBackend) -> None:
    with pytest.raises(DeadlineExceeded):
        embed(backend, "w4", deadline=time.monotonic() - 1)
    assert len(embed(backend, "w4", deadline=time.monotonic() + 60).vectors) == 1


class Clock:
    """A second passes between any two looks at it."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic(self) -> float:
        self.now += 1
        return self.now

    def perf_counter(self) -> float:
        return self.monotonic()


def test_a_deadline_that_passes_during_the_work_ends_it(
    backend: StaticBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(static_module, "time", clock)
    monkeypatch.setattr(admission, "time", clock)
    monkeypatch.setattr(static_module, "GROUP_NUMBERS", SIZE)
    items = [f"w{n}" for n in range(4, 20)]
    # the beginning, in the middle of tokenizing, and in the middle of computing
    for deadline in (1, 10, 26):
        clock.now = 0
        with pytest.raises(DeadlineExceeded, match="gave up after"):
            embed(backend, *items, deadline=deadline)
        assert clock.now <= deadline + 3
    clock.now = 0
    assert len(embed(backend, *items, deadline=100).vectors) == 16


def test_what_weights_multiply_is_work_too_and_a_lot_of_it_is_done_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_dense(tmp_path)
    backend = load(
        save_static(tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB, modules=["Dense"])
    )
    compute, threads = backend._compute, []

    def watched(job: EmbedJob, entered: float) -> EmbedResult:
        threads.append(threading.current_thread())
        return compute(job, entered)

    monkeypatch.setattr(backend, "_compute", watched)
    for numbers in (SIZE + 2 * SIZE, SIZE + 2 * SIZE - 1):
        monkeypatch.setattr(static_module, "INLINE_NUMBERS", numbers)
        embed(backend, "w4")
    assert [thread is threading.main_thread() for thread in threads] == [True, False]
    backend.close()


def test_long_requests_are_computed_elsewhere_and_short_ones_do_not_wait_for_them(
    backend: StaticBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    compute = backend._compute

    def held(job: EmbedJob, entered: float) -> EmbedResult:
        if threading.current_thread() is not threading.main_thread():
            assert gate.wait(10)
        return compute(job, entered)

    monkeypatch.setattr(backend, "_compute", held)

    async def both() -> list[EmbedResult]:
        long = [asyncio.create_task(backend.embed(EmbedJob(items=["w4 " * 999]))) for _ in "abc"]
        await asyncio.sleep(0.01)
        short = await backend.embed(EmbedJob(items=["w5"]))
        assert not any(task.done() for task in long)
        gate.set()
        return [short, *await asyncio.gather(*long)]

    short, *long = asyncio.run(both())
    assert np.allclose(short.vectors[0], TABLE[5])
    for result in long:
        assert np.allclose(result.vectors[0], TABLE[4], atol=1e-6)


def test_more_work_than_may_wait_is_refused_and_let_in_again_later(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB)
    backend = load(folder, max_queued_tokens=1_000)
    job = EmbedJob(items=["w4 " * INLINE_CHARS])

    async def rush() -> None:
        first = asyncio.create_task(backend.embed(job))  # alone it may be as large as it likes
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="max_queued_tokens") as raised:
            await backend.embed(job)
        assert raised.value.retry_after_s >= 1
        await first
        await backend.embed(job)

    asyncio.run(rush())
    backend.close()


def test_a_queue_that_one_tenant_filled_has_room_for_another(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB)
    backend = load(folder, max_queued_tokens=2 * INLINE_CHARS)
    items = ["w4 " * INLINE_CHARS]
    flood, quiet = (EmbedJob(items=items, tenant=one) for one in ("flood", "quiet"))

    async def rush() -> None:
        first = [asyncio.create_task(backend.embed(flood)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await backend.embed(flood)
        await backend.embed(quiet)
        await asyncio.gather(*first)

    asyncio.run(rush())
    backend.close()


def test_a_job_waits_with_no_more_tokens_than_it_may_have(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB)
    backend = load(folder, max_queued_tokens=1_000)
    job = EmbedJob(items=[" " * 4 * INLINE_CHARS + "w4"], max_total_tokens=500)

    async def both() -> list[EmbedResult]:
        return await asyncio.gather(*map(backend.embed, [job, job]))

    for result in asyncio.run(both()):
        assert np.allclose(result.vectors[0], TABLE[4])
    backend.close()


def test_a_model_that_is_closed_while_a_request_comes_in_is_unavailable(tmp_path: Path) -> None:
    backend = load(save_static(tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB))
    backend._workers.close()  # as by another thread, between looking and handing over
    with pytest.raises(BackendUnavailable):
        embed(backend, "w4 " * INLINE_CHARS)
    with pytest.raises(BackendUnavailable):
        asyncio.run(backend.tokenize(["w4"]))
    backend.close()


def test_a_model_is_warm_until_it_is_closed_and_may_be_closed_twice(tmp_path: Path) -> None:
    backend = load(save_static(tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB))
    assert backend.health().state == "warm"
    asyncio.run(backend.aclose())
    backend.close()
    assert backend.health().state == "cold"
    for item in ("w4", "w4 " * INLINE_CHARS):
        with pytest.raises(BackendUnavailable):
            embed(backend, item)
    with pytest.raises(BackendUnavailable):
        asyncio.run(backend.tokenize(["w4"]))


def test_a_vector_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[7] = 3e38
    add_dense(tmp_path)
    backend = load(
        save_static(tmp_path, {"embedding.weight": table}, vocab=VOCAB, modules=["Dense"])
    )
    assert len(embed(backend, "w4").vectors) == 1
    with pytest.raises(ComputeError, match="not finite"):
        embed(backend, "w7")
    backend.close()


def add_dense(folder: Path) -> None:
    """A layer that adds up its inputs."""
    config = {
        "in_features": SIZE,
        "out_features": 2,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    weight = np.stack([np.ones(SIZE), -np.ones(SIZE)]).astype(np.float32)
    save_module(folder / "1_Dense", config, {"linear.weight": weight})


def test_modules_behind_the_table_are_computed(tmp_path: Path) -> None:
    add_dense(tmp_path)
    folder = save_static(
        tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB, modules=["Dense", "Normalize"]
    )
    backend = load(folder)
    total = TABLE[[4, 5]].mean(axis=0).sum()
    assert np.allclose(embed(backend, "w4 w5").vectors, [[total, -total]], atol=1e-5)
    assert (backend.card.dimension, backend.card.normalizes) == (2, True)
    backend.close()


def test_zeros_stay_finite_behind_a_normalize_that_is_not_the_last(tmp_path: Path) -> None:
    folder = save_static(
        tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB, modules=["Normalize", "Normalize"]
    )
    backend = load(folder)
    vectors = embed(backend, "", "w4").vectors
    assert not vectors[0].any()
    assert np.allclose(np.linalg.norm(vectors[1]), 1)
    backend.close()


def test_a_tokenizer_that_cuts_texts_by_itself_says_how_long_they_may_be(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embedding.weight": TABLE}, vocab=VOCAB)
    save_words(folder, VOCAB, truncation=3)
    backend = load(folder)
    result = embed(backend, "w4 w5 w6 w7")
    assert backend.card.max_seq_length == 3
    assert (result.token_counts, result.truncated) == ([3], [True])
    assert np.allclose(result.vectors[0], TABLE[[4, 5, 6]].mean(axis=0), atol=1e-6)
    backend.close()


MODEL2VEC = {"model_type": "model2vec", "normalize": True}


@pytest.mark.parametrize("modules", [None, ["Normalize"]])
def test_a_model2vec_folder_leaves_unknown_tokens_out_after_cutting(
    modules: list[str] | None, tmp_path: Path
) -> None:
    folder = save_static(
        tmp_path,
        {"embeddings": TABLE},
        vocab=VOCAB,
        config={**MODEL2VEC, "max_length": 3},
        modules=modules,
    )
    backend = load(folder)
    assert (backend.card.family, backend.card.max_seq_length) == ("model2vec", 3)
    assert backend.card.normalizes
    result = embed(backend, "w4 x w5 w6", "x", [4, UNKNOWN])
    assert np.allclose(result.vectors[0], TABLE[[4, 5]].mean(axis=0), atol=1e-6)
    assert not result.vectors[1].any()
    assert np.allclose(result.vectors[2], TABLE[[4, UNKNOWN]].mean(axis=0), atol=1e-6)
    assert list(result.token_counts) == [2, 0, 2]
    assert list(result.truncated) == [True, False, False]
    (tokens,) = asyncio.run(backend.tokenize(["w4 x w5"]))
    assert (list(tokens.ids), list(tokens.offsets)) == ([4, 5], [(0, 2), (5, 7)])
    backend.close()


def test_model2vec_looks_at_as_many_characters_as_its_tokens_usually_have(tmp_path: Path) -> None:
    config = {**MODEL2VEC, "max_length": 4}  # the median token has 3 characters
    backend = load(
        save_static(tmp_path, {"embeddings": TABLE}, vocab=VOCAB, config=config, modules=None)
    )
    result = embed(backend, "w20 w21     w22", "w20 w21 w22", truncation=Truncation())
    assert np.allclose(result.vectors[0], TABLE[[20, 21]].mean(axis=0), atol=1e-6)
    assert list(result.truncated) == [True, False]
    left = embed(backend, "w20 w21     w22", truncation=Truncation(side="left"))
    assert np.allclose(left.vectors[0], TABLE[[21, 22]].mean(axis=0), atol=1e-6)
    with pytest.raises(InputTooLong, match="far too many characters"):
        embed(backend, "w20 w21     w22", truncation=Truncation(refuse=True))
    backend.close()


def test_model2vec_takes_512_tokens_unless_it_says_otherwise(tmp_path: Path) -> None:
    for config, limit in (({}, 512), ({"max_length": None}, MAX_TOKENS)):
        folder = save_static(
            tmp_path / str(limit),
            {"embeddings": TABLE},
            vocab=VOCAB,
            config={"model_type": "model2vec", **config},
            modules=None,
        )
        backend = load(folder)
        assert backend.card.max_seq_length == limit
        assert not backend.card.normalizes
        backend.close()
