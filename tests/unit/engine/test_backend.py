"""One real model, random and small, from its folder to vectors and away again."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fledge.engine import backend as backend_module
from fledge.engine import cpu
from fledge.engine.backend import LocalBackend, load_transformer
from fledge.engine.batcher import Cost
from fledge.engine.channel import Channel
from fledge.engine.lane import Lane
from fledge.engine.ops.openvino import CompileError
from fledge.engine.packing import Row
from fledge.engine.pipeline import Compilation, Pipeline, load_pipeline
from fledge.engine.recipe import Recipe, read_recipe
from fledge.engine.sources import ModelFolder
from fledge.engine.tokenizer import SHORT_CHARS
from fledge.errors import (
    BackendUnavailable,
    ComputeError,
    CorruptModel,
    DeadlineExceeded,
    InputTooLong,
    InvalidRequest,
    ModelLoadError,
    Overloaded,
    TooManyInputs,
)
from fledge.types import EmbedJob, EmbedResult, Item, Precision, Truncation, Vectors
from tests.tiny import save_bert, save_tokenizer

LIMIT = 128
HIDDEN = 64
OVERFLOWING = 250
TEXTS = [" ".join(f"w{4 + (n * k) % 200}" for k in range(1, 1 + 7 * n)) for n in range(1, 9)]
RIGHT = Truncation(side="right")


def load(
    folder: Path,
    cache: Path,
    *,
    precision: Precision = "fp32",
    lane: Lane | None = None,
) -> LocalBackend:
    return load_transformer(
        ModelFolder(folder, "test/tiny", "abc", "a test"),
        read_recipe(folder),
        lane=lane or Lane(batch_target_ms=35, max_queued_tokens=10**6),
        precision=precision,
        threads=2,
        cache_dir=cache,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_bert(tmp_path_factory.mktemp("tiny"), hidden=HIDDEN, positions=LIMIT)
    speech = {"prompts": {"query": "w20 w21 "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(speech))
    tensors = load_file(folder / "model.safetensors")
    # finite weights, but the layer norm's sum of their squares is not
    tensors["embeddings.word_embeddings.weight"][OVERFLOWING, ::2] = 3e38
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def backend(folder: Path, cache: Path) -> Iterator[LocalBackend]:
    backend = load(folder, cache)
    yield backend
    backend.close()


def embed(backend: LocalBackend, *items: Item, **options: Any) -> EmbedResult:
    options.setdefault("truncation", RIGHT)
    return asyncio.run(backend.embed(EmbedJob(items=items, **options)))


class Blocker:
    """Another model on the lane, which computes until it is told to stop."""

    def __init__(self, lane: Lane, *, error: BaseException | None = None) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        self._lane, self._error = lane, error
        self._channel = Channel(self._compute, Cost(0), rate=1000)
        lane.attach(self._channel)
        self.future = lane.submit(self._channel, [Row([1])], priority=0, deadline=None)
        assert self.entered.wait(10)

    def _compute(self, rows: Sequence[Row]) -> Vectors:
        self.entered.set()
        assert self.gate.wait(10)
        if self._error is not None:
            raise self._error
        return np.zeros((len(rows), 1), np.float32)

    def release(self) -> None:
        self.gate.set()
        self._lane.detach(self._channel)


def test_the_card_says_what_the_folder_and_the_machine_decided(backend: LocalBackend) -> None:
    card = backend.card
    assert (card.id, card.revision, card.origin) == ("test/tiny", "abc", "a test")
    assert (card.family, card.precision, card.dimension) == ("bert", "fp32", HIDDEN)
    assert (card.max_seq_length, card.vocab_size, card.pooling) == (LIMIT, 300, ("mean",))
    assert (card.prompts, card.default_prompt_name) == ({"query": "w20 w21 "}, "query")
    assert card.normalizes


def test_vectors_counts_and_cuts_are_in_the_order_of_the_items(backend: LocalBackend) -> None:
    items: list[Item] = ["w4 w5", "w6 " * 200, [7, 8, 9], "w4 w5", [10] * 129]
    result = embed(backend, *items)
    assert list(result.token_counts) == [4, LIMIT, 3, 4, LIMIT]
    assert list(result.truncated) == [False, True, False, False, True]
    assert result.vectors.shape == (5, HIDDEN)
    assert result.vectors.dtype == np.float32
    assert np.allclose(result.vectors[0], result.vectors[3], atol=1e-6)
    assert not np.allclose(result.vectors[0], result.vectors[2], atol=1e-3)
    assert not result.normalized


def test_a_text_in_a_batch_equals_the_text_alone(backend: LocalBackend) -> None:
    together = embed(backend, *TEXTS).vectors
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.abs(embed(backend, text).vectors[0] - vector).max() < 5e-6


def test_a_text_equals_its_own_token_ids(backend: LocalBackend) -> None:
    (tokens,) = asyncio.run(backend.tokenize([TEXTS[3]]))
    result = embed(backend, TEXTS[3], tokens.ids)
    assert np.abs(result.vectors[0] - result.vectors[1]).max() < 5e-6


def test_texts_too_many_for_the_event_loop_are_tokenized_elsewhere_with_the_same_result(
    backend: LocalBackend,
) -> None:
    item = "w4 " * 20
    many = SHORT_CHARS // len(item) + 1
    assert np.allclose(
        embed(backend, *[item] * many).vectors, embed(backend, item).vectors, atol=5e-6
    )


def test_requests_at_the_same_time_each_get_their_own_vectors(backend: LocalBackend) -> None:
    async def all_at_once() -> list[EmbedResult]:
        jobs = [EmbedJob(items=[text, "w4"], truncation=RIGHT) for text in TEXTS * 4]
        return await asyncio.gather(*map(backend.embed, jobs))

    results = asyncio.run(all_at_once())
    alone = embed(backend, *TEXTS).vectors
    for n, result in enumerate(results):
        assert np.abs(result.vectors[0] - alone[n % len(TEXTS)]).max() < 5e-6


def test_a_prompt_is_computed_and_counted(backend: LocalBackend) -> None:
    prompted, spelled = embed(backend, "w4", prompt="w20 w21 "), embed(backend, "w20 w21 w4")
    assert list(prompted.token_counts) == [5]
    assert np.abs(prompted.vectors - spelled.vectors).max() < 5e-6


def test_the_times_of_a_job_are_told(backend: LocalBackend) -> None:
    timings = embed(backend, *TEXTS).timings
    assert timings.tokenize_ms > 0
    assert timings.queue_ms > 0
    assert timings.compute_ms > 0


def test_a_text_that_is_too_long_can_be_refused(backend: LocalBackend) -> None:
    with pytest.raises(InputTooLong):
        embed(backend, "w6 " * 200, truncation=Truncation(side="right", refuse=True))


def test_a_vector_that_is_not_finite_is_an_error_for_its_own_request_only(
    backend: LocalBackend,
) -> None:
    async def both() -> list[EmbedResult | BaseException]:
        jobs = [EmbedJob(items=["w4", f"w{OVERFLOWING}"]), EmbedJob(items=["w4"])]
        return await asyncio.gather(*map(backend.embed, jobs), return_exceptions=True)

    bad, good = asyncio.run(both())
    assert isinstance(bad, ComputeError)
    assert isinstance(good, EmbedResult)
    assert np.isfinite(good.vectors).all()


def test_a_deadline_that_has_passed_is_an_error(backend: LocalBackend) -> None:
    with pytest.raises(DeadlineExceeded):
        embed(backend, "w4", deadline=time.monotonic() - 1)


def test_too_many_tokens_are_refused_before_anything_is_computed(folder: Path, cache: Path) -> None:
    lane = Lane(batch_target_ms=35, max_queued_tokens=10**6)
    backend = load(folder, cache, lane=lane)
    blocker = Blocker(lane)
    with pytest.raises(TooManyInputs, match="have 8 tokens in all; at most 7"):
        embed(backend, "w4 w5", "w6 w7", max_total_tokens=7)
    blocker.release()
    assert len(embed(backend, "w4 w5", "w6 w7", max_total_tokens=8).vectors) == 2
    backend.close()


def test_a_cancelled_task_leaves_the_queue(folder: Path, cache: Path) -> None:
    lane = Lane(batch_target_ms=35, max_queued_tokens=100)
    backend = load(folder, cache, lane=lane)
    blocker = Blocker(lane)
    long = EmbedJob(items=["w4 " * 90], truncation=RIGHT)

    async def change_ones_mind() -> EmbedResult:
        waiting = asyncio.create_task(backend.embed(long))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await backend.embed(long)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        admitted = asyncio.create_task(backend.embed(long))
        await asyncio.sleep(0)
        blocker.gate.set()
        return await admitted

    assert list(asyncio.run(change_ones_mind()).token_counts) == [92]
    blocker.release()
    backend.close()


def test_a_model_is_warm_until_it_is_closed_and_may_be_closed_twice(
    folder: Path, cache: Path
) -> None:
    backend = load(folder, cache)
    assert backend.health().state == "warm"
    asyncio.run(backend.aclose())
    backend.close()
    asyncio.run(backend.aclose())
    assert backend.health().state == "cold"
    for item in ("w4", "w4 " * SHORT_CHARS):
        with pytest.raises(BackendUnavailable):
            embed(backend, item)
    with pytest.raises(BackendUnavailable):
        asyncio.run(backend.tokenize(["w4"]))


def test_a_model_that_is_closed_while_a_request_comes_in_is_unavailable(
    folder: Path, cache: Path
) -> None:
    backend = load(folder, cache)
    backend._workers.close()  # as by another thread, between looking and handing over
    with pytest.raises(BackendUnavailable):
        embed(backend, "w4 " * SHORT_CHARS)
    with pytest.raises(BackendUnavailable):
        asyncio.run(backend.tokenize(["w4"]))
    backend.close()


class BrokenLane(Lane):
    """Takes no model."""

    def attach(self, channel: Channel) -> None:
        raise OSError("no threads left")


def test_a_model_that_cannot_join_the_lane_gives_its_memory_back(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Pipeline] = []
    close = Pipeline.close

    def watched(pipeline: Pipeline) -> None:
        closed.append(pipeline)
        close(pipeline)

    monkeypatch.setattr(Pipeline, "close", watched)
    with pytest.raises(OSError, match="no threads left"):
        load(folder, cache, lane=BrokenLane(batch_target_ms=35, max_queued_tokens=10))
    assert len(closed) == 1


class Fatal(BaseException):
    """What only a lane that dies lets through."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_whose_lane_died_has_failed(folder: Path, cache: Path) -> None:
    lane = Lane(batch_target_ms=35, max_queued_tokens=100)
    backend = load(folder, cache, lane=lane)
    blocker = Blocker(lane, error=Fatal())
    blocker.gate.set()
    with pytest.raises(BackendUnavailable):
        blocker.future.result(10)
    until = time.monotonic() + 10
    while lane.alive and time.monotonic() < until:
        time.sleep(0.001)
    assert backend.health().state == "failed"
    assert "died" in backend.health().reason
    with pytest.raises(BackendUnavailable):
        embed(backend, "w4")
    backend.close()


def cosines(a: Vectors, b: Vectors) -> Any:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.999), ("int8", 0.99), ("auto", 0.99)])
def test_every_precision_computes_nearly_the_same(
    precision: Precision, least: float, backend: LocalBackend, folder: Path, cache: Path
) -> None:
    other = load(folder, cache, precision=precision)
    assert cosines(embed(other, *TEXTS).vectors, embed(backend, *TEXTS).vectors).min() >= least
    other.close()


EVERY_MODE = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def test_every_pooling_and_module_gives_a_text_its_own_vector_in_any_batch(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "m", hidden=HIDDEN, layers=1)
    save_chain(folder, "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
    width = HIDDEN * len(EVERY_MODE)
    dense: dict[str, Any] = {"in_features": width, "out_features": 8, "use_residual": True}
    dense["activation_function"] = "torch.nn.modules.activation.Sigmoid"
    save_module(folder / "1_Pooling", {"pooling_mode": EVERY_MODE, "include_prompt": False})
    save_module(
        folder / "2_Dense",
        dense,
        {"linear.weight": (8, width), "linear.bias": (8,), "residual.weight": (8, width)},
    )
    save_module(folder / "3_LayerNorm", {"dimension": 8}, {"norm.weight": (8,), "norm.bias": (8,)})
    backend = load(folder, tmp_path / "c")
    assert backend.card.pooling == tuple(EVERY_MODE)
    assert backend.card.dimension == 8
    together = embed(backend, *TEXTS, prompt="w20 w21 ").vectors
    for text, vector in zip(TEXTS, together, strict=True):
        alone = embed(backend, text, prompt="w20 w21 ").vectors[0]
        assert np.abs(alone - vector).max() < 2e-5
        unmasked = embed(backend, "w20 w21 " + text).vectors[0]
        assert np.abs(unmasked - vector).max() > 1e-3
    backend.close()


def save_chain(folder: Path, *kinds: str) -> None:
    entries = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": PACKAGE + kind}
        for n, kind in enumerate(("Transformer", *kinds))
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


PACKAGE = "sentence_transformers.models."


def save_module(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shapes:
        random = np.random.default_rng(5)
        tensors = {name: random.normal(0, 0.3, shape) for name, shape in shapes.items()}
        save_file(
            {name: value.astype(np.float32) for name, value in tensors.items()},
            folder / "model.safetensors",
        )


def change_config(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def change_tensor(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        save_file({**tensors, name: np.ascontiguousarray(change(tensors[name]))}, path)

    return changed


def add_dense(out_features: int, *, rows: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        save_chain(folder, "Pooling", "Dense")
        config = {"in_features": HIDDEN, "out_features": out_features, "bias": False}
        save_module(folder / "2_Dense", config, {"linear.weight": (rows, HIDDEN)})

    return change


DAMAGE: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "a table of words shorter than the config says": (
        change_config(vocab_size=301),
        "301 rows of word.weight, but the checkpoint has 300",
    ),
    "a table of positions shorter than the config says": (
        change_config(max_position_embeddings=129),
        "129 rows of position.weight",
    ),
    "another hidden size": (
        change_config(hidden_size=32, num_attention_heads=4),
        "32 rows of layer.0.query.weight, but the checkpoint has",
    ),
    "another intermediate size": (
        change_tensor("encoder.layer.1.intermediate.dense.weight", lambda w: w[:-1]),
        "256 rows of layer.1.intermediate.weight, but the checkpoint has 255",
    ),
    "a matrix with a column less": (
        change_tensor("encoder.layer.0.attention.self.query.weight", lambda w: w[:, :-1]),
        "a matrix has another number of columns",
    ),
    "more layers than there are": (change_config(num_hidden_layers=3), "encoder.layer.2"),
    "a dense layer with fewer rows than it says": (add_dense(16, rows=15), "speaks of 16 rows"),
    "values that overflow": (
        change_tensor("embeddings.LayerNorm.weight", lambda w: w + np.float32(3e38)),
        "not finite",
    ),
    "a tokenizer of another model": (
        lambda folder: save_tokenizer(folder, 400),
        "the tokenizer has 400 tokens, but the network only 300",
    ),
}


def test_a_token_that_only_the_tokenizer_knows_is_refused_where_it_is_used(
    tmp_path: Path,
) -> None:
    folder = save_bert(tmp_path / "m", hidden=HIDDEN, positions=LIMIT)
    change_config(vocab_size=299)(folder)
    change_tensor("embeddings.word_embeddings.weight", lambda w: w[:299])(folder)
    backend = load(folder, tmp_path / "c")
    assert backend.card.vocab_size == 299
    known = asyncio.run(backend.embed(EmbedJob(items=["w298"])))
    assert np.isfinite(known.vectors).all()
    for item in ("w5 w299", [5, 299]):
        with pytest.raises(InvalidRequest, match="299") as raised:
            asyncio.run(backend.embed(EmbedJob(items=["w5", item])))
        assert raised.value.field == "items[1]"
    backend.close()


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_files_that_contradict_each_other_are_a_corrupt_model(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = save_bert(tmp_path / "m", hidden=HIDDEN, positions=LIMIT)
    damage(folder)
    with pytest.raises(CorruptModel, match=message):
        load(folder, tmp_path / "c")


def choose(monkeypatch: pytest.MonkeyPatch, *, refused: Sequence[str], error: Exception) -> None:
    """A machine that says it runs int8, and a runtime that refuses some precisions."""
    decision = cpu.Decision("int8", "int8", "a test", is_fallback=True)
    monkeypatch.setattr(cpu, "choose_precision", lambda *_: decision)

    def refuse(recipe: Recipe, compilation: Compilation) -> Pipeline:
        if compilation.precision in refused:
            raise error
        return load_pipeline(recipe, compilation)

    monkeypatch.setattr(backend_module, "load_pipeline", refuse)


def test_a_precision_that_the_runtime_refuses_gives_way_to_a_plainer_one(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choose(monkeypatch, refused=["int8", "bf16"], error=CompileError("no kernels"))
    backend = load(folder, cache, precision="int8")
    assert backend.card.precision == "fp32"
    assert "does not run in int8 here: no kernels" in caplog.text
    assert "does not run in bf16 here: no kernels" in caplog.text
    backend.close()


def test_nothing_is_plainer_than_fp32(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, refused=["int8", "bf16", "fp32"], error=CompileError("no kernels"))
    with pytest.raises(ModelLoadError, match="no kernels"):
        load(folder, cache, precision="int8")


def test_a_damaged_model_is_not_tried_in_another_precision(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choose(monkeypatch, refused=["int8"], error=CorruptModel("damaged"))
    with pytest.raises(CorruptModel, match="damaged"):
        load(folder, cache, precision="int8")
    assert "does not run" not in caplog.text
