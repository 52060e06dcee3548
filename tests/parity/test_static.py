"""Static models agree with sentence-transformers, and Model2Vec's own with their golden vectors."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.types import Vectors
from tests.conftest import SHARED, require, require_folder
from tests.parity.agreement import FP32_TOLERANCE, assert_vectors_agree
from tests.parity.engine import Engine
from tests.parity.reference import Reference, cosines, relative_error, torch
from tests.parity.test_real_model import passages, stsb
from tests.parity.texts import SPECIAL_TOKENS_IN_TEXT, TEXTS

stats = require("scipy.stats", "Spearman's correlation is scipy's")

from safetensors.torch import load_file  # noqa: E402 - after the skips above

from tests.parity import static_models as models  # noqa: E402 - likewise

ALL_TEXTS = (*TEXTS, *SPECIAL_TOKENS_IN_TEXT)


@pytest.fixture(scope="session")
def potion() -> Path:
    return require_folder(
        SHARED / "models" / "potion-base-2M",
        "../shared/models/potion-base-2M is not on this machine",
    )


def assert_agrees(
    engine: Engine,
    folder: Path,
    texts: Sequence[str] = ALL_TEXTS,
    *,
    dtype: str = "float64",
    **options: Any,
) -> None:
    """As for other models; and where the reference gives zeros, so does the engine.

    The reference is torch in float64: in float32 its sum of a long text is off by 3e-5.
    """
    wanted = Reference(folder, dtype).embed(texts, **options)
    got = engine.embed(folder, texts, **options)
    empty = ~wanted.any(axis=1)
    assert not got[empty].any()
    kept = np.flatnonzero(~empty).tolist()
    assert len(kept) > 10
    assert_vectors_agree(got[kept], wanted[kept], [texts[n] for n in kept])


def test_potion_gives_its_golden_vectors(engine: Engine, potion: Path) -> None:
    golden = json.loads((potion / "golden.json").read_text("utf-8"))
    wanted: Vectors = np.array(golden["vectors"], np.float32)
    # an empty text is refused before it reaches a model; white space has as few tokens
    got = engine.embed(potion, [text or " " for text in golden["texts"]])
    assert np.abs(got - wanted).max() <= 1e-5


def test_potion_never_wakes_the_runtime(potion: Path) -> None:
    program = f"""
import sys
import fledge
with fledge.load({str(potion)!r}) as model:
    assert model.embed(["a text", "another one " * 999]).shape == (2, 64)
print("openvino" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False"]


def test_potion_has_its_score_on_the_sts_benchmark(
    engine: Engine, potion: Path, shared_data: Path
) -> None:
    gold, first, second = stsb(shared_data)
    found = cosines(engine.embed(potion, first), engine.embed(potion, second))
    assert 100 * stats.spearmanr(gold, found).statistic == pytest.approx(72.80, abs=0.01)


def test_potion_agrees_wherever_a_text_is_short_and_known(
    engine: Engine, potion: Path, shared_data: Path
) -> None:
    # Beyond that Model2Vec, whose model it is, cuts, and leaves unknown tokens out.
    _, first, _ = stsb(shared_data)
    reference = Reference(potion)
    tokenizer = reference.model.tokenizer
    unknown = tokenizer.token_to_id("[UNK]")
    texts = [*first, *passages(shared_data)]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    known = [
        text
        for text, one in zip(texts, encodings, strict=True)
        if unknown not in one.ids and len(one.ids) <= 512
    ]
    assert 1000 < len(known) < len(texts)
    assert_vectors_agree(engine.embed(potion, known), reference.embed(known), known)


FAMILIES = ("bert", "mpnet", "roberta", "xlm-roberta", "camembert")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_tokenizer_agrees(family: str, engine: Engine, tmp_path: Path) -> None:
    module = models.static_embedding(tmp_path / "files", family=family)
    assert_agrees(engine, models.save(tmp_path / "saved", module))


CHAINS: dict[str, Callable[[], Sequence[Any]]] = {
    "normalize": lambda: [models.Normalize()],
    "dense": lambda: [models.dense(models.WIDTH, 32, torch.nn.GELU()), models.Normalize()],
    "layer-norm": lambda: [models.layer_norm(models.WIDTH), models.Normalize()],
    "normalize-in-the-middle": lambda: [
        models.Normalize(),
        models.dense(models.WIDTH, 16, torch.nn.Tanh()),
    ],
}


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("chain", CHAINS)
def test_every_chain_of_modules_agrees(
    chain: str, is_old: bool, engine: Engine, tmp_path: Path
) -> None:
    module = models.static_embedding(tmp_path / "files")
    folder = models.save(tmp_path / "saved", module, *CHAINS[chain]())
    if is_old:
        models.in_old_spelling(folder)
    assert_agrees(engine, folder, TEXTS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tables_in_half_precision_agree(dtype: str, engine: Engine, tmp_path: Path) -> None:
    module = models.static_embedding(tmp_path / "files", dtype=dtype)
    assert_agrees(engine, models.save(tmp_path / "saved", module))


def quantized(tensors: dict[str, Any], *, dtype: str, weighted: bool) -> dict[str, Any]:
    """A vocabulary of fewer rows than tokens, as Model2Vec saves it."""
    table = tensors["embedding.weight"]
    generator = torch.Generator().manual_seed(6)
    mapping = torch.randint(0, 40, (len(table),), generator=generator)
    rows = table[:40].to(getattr(torch, dtype))
    weights = torch.rand(len(table), generator=generator, dtype=torch.float64)
    return {"embeddings": rows, "mapping": mapping, **({"weights": weights} if weighted else {})}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_quantized_vocabularies_agree(
    dtype: str, weighted: bool, engine: Engine, tmp_path: Path
) -> None:
    folder = models.save(tmp_path / "saved", models.static_embedding(tmp_path / "files"))
    models.rewrite_tensors(
        folder, lambda tensors: quantized(tensors, dtype=dtype, weighted=weighted)
    )
    assert_agrees(engine, folder)


def test_integers_with_weights_agree(engine: Engine, tmp_path: Path) -> None:
    # Without weights sentence-transformers cannot load them at all.
    def change(tensors: dict[str, Any]) -> dict[str, Any]:
        table = tensors["embedding.weight"]
        rows = (table * 30).round().to(torch.int8)
        return {"embeddings": rows, "weights": models.random_tensor(len(table), seed=2)}

    folder = models.save(tmp_path / "saved", models.static_embedding(tmp_path / "files"))
    assert_agrees(engine, models.rewrite_tensors(folder, change))


def test_prompts_agree(engine: Engine, tmp_path: Path) -> None:
    module = models.static_embedding(tmp_path / "files")
    folder = models.save(tmp_path / "saved", module, prompts={"query": "search for the question: "})
    assert_agrees(engine, folder, prompt_name="query")


def test_a_tokenizer_that_truncates_agrees(engine: Engine, tmp_path: Path) -> None:
    module = models.static_embedding(tmp_path / "files")
    module.tokenizer.enable_truncation(7)
    assert_agrees(engine, models.save(tmp_path / "saved", module), TEXTS)


def test_a_checkpoint_of_torch_agrees(engine: Engine, tmp_path: Path) -> None:
    module = models.static_embedding(tmp_path / "files")
    folder = models.save(tmp_path / "saved", module, models.dense(models.WIDTH, 32))
    for path in list(folder.rglob("model.safetensors")):
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    assert_agrees(engine, folder)


WORDY = (
    *TEXTS,
    "The weather is lovely today, he drove!",
    "(weather) 'lovely' today... sunny, sunny, sunny",
    "A SMALL MODEL reads a short text",
    "the The the",
    "Съешь же ещё",
    "braune Fuchs springt über den faulen Hund",
    "query: passage: search documents",
    "Le café est fermé",
)
POOLINGS = ("mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_embeddings_of_words_agree(
    weighted: bool, lower: bool, engine: Engine, tmp_path: Path
) -> None:
    folder = models.save(
        tmp_path / "saved",
        models.word_embeddings(lower=lower),
        *([models.word_weights()] if weighted else []),
        models.Pooling(models.WIDTH, POOLINGS),
        models.dense(4 * models.WIDTH, 32, torch.nn.Identity()),
    )
    assert_agrees(engine, folder, WORDY)
    assert_agrees(engine, models.in_old_spelling(folder), WORDY)


def test_the_largest_numbers_of_words_agree(engine: Engine, tmp_path: Path) -> None:
    pooling = models.Pooling(models.WIDTH, "max")
    folder = models.save(tmp_path / "saved", models.word_embeddings(), pooling)
    wanted = Reference(folder).embed(WORDY)
    known = [text for text, vector in zip(WORDY, wanted, strict=True) if np.isfinite(vector).all()]
    assert len(known) > 10
    assert_agrees(engine, folder, known)


def test_words_beyond_the_limit_agree(engine: Engine, tmp_path: Path) -> None:
    pooling = models.Pooling(models.WIDTH, "mean")
    words = models.word_embeddings(max_seq_length=3)
    assert_agrees(engine, models.save(tmp_path / "saved", words, pooling), WORDY)


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("is_old", [False, True])
def test_bags_of_words_agree(
    is_old: bool, cumulative: bool, engine: Engine, tmp_path: Path
) -> None:
    bag = models.bag_of_words(cumulative=cumulative)
    size = bag.get_embedding_dimension()
    folder = models.save(tmp_path / "saved", bag, models.dense(size, 24, torch.nn.Tanh()))
    if is_old:
        models.in_old_spelling(folder)
    assert_agrees(engine, folder, WORDY, dtype="float32")  # torch counts in float32 always
    assert_agrees(engine, models.save(tmp_path / "bare", bag), WORDY, dtype="float32")


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def shifted(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {**tensors, name: tensors[name].roll(1, 0)}


def to_cased(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(content), "utf-8")


def to_tanh(folder: Path) -> None:
    path = next(folder.glob("*_Dense")) / "config.json"
    path.write_text(path.read_text().replace("linear.Identity", "activation.Tanh"))


MISTAKES: dict[str, Callable[[Path], object]] = {
    "no weights": lambda folder: models.rewrite_tensors(folder, without("weights")),
    "weights of the next token": lambda folder: models.rewrite_tensors(folder, shifted("weights")),
    "a mapping off by one": lambda folder: models.rewrite_tensors(folder, shifted("mapping")),
    "the next row": lambda folder: models.rewrite_tensors(folder, shifted("embeddings")),
    "cased": to_cased,
    "another activation": to_tanh,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_far_outside_of_the_tolerance(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    def make(place: Path) -> Path:
        module = models.static_embedding(place / "files")
        dense = models.dense(models.WIDTH, 32, torch.nn.Identity())
        folder = models.save(place / "saved", module, dense)
        return models.rewrite_tensors(
            folder, lambda tensors: quantized(tensors, dtype="float32", weighted=True)
        )

    folder, copy = make(tmp_path / "a"), make(tmp_path / "b")
    MISTAKES[name](copy)
    assert_agrees(engine, copy)
    wrong = relative_error(engine.embed(copy, TEXTS), Reference(folder).embed(TEXTS))
    assert wrong > 1000 * FP32_TOLERANCE
