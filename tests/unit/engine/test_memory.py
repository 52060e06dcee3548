"""What a model will take, from its headers alone; what there is, and what this process has."""

import mmap
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models

from fledge.engine import memory
from fledge.engine.cpu import ChosenPrecision
from fledge.engine.memory import bytes_of_parameters, model_bytes
from fledge.errors import CorruptModel, UnsupportedModel
from tests.static_folders import PACKAGE, draw, save_module, save_modules, save_static, write
from tests.tiny import DECODER, save_bert, save_decoder
from tests.unit.engine.torch_files import save_torch

PRECISIONS: list[ChosenPrecision] = ["fp32", "bf16", "int8"]
HIDDEN = 64
BERT_LAYER = 12 * HIDDEN**2
BUFFER_BYTES = 64 * 2**20

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only a peak is known")


def test_a_table_stays_in_its_file_and_only_the_tokenizer_grows_with_the_vocabulary(
    tmp_path: Path,
) -> None:
    small = model_bytes(save_bert(tmp_path / "small", vocab=300), "bf16")
    large = model_bytes(save_bert(tmp_path / "large", vocab=3300), "bf16")
    assert large - small == 3000 * memory.TOKEN_BYTES


@pytest.mark.parametrize(("precision", "number_bytes"), [("bf16", 2), ("int8", 1)])
def test_factors_of_matmuls_are_packed_in_the_precision(
    tmp_path: Path, precision: ChosenPrecision, number_bytes: int
) -> None:
    two = model_bytes(save_bert(tmp_path / "two", layers=2), precision)
    five = model_bytes(save_bert(tmp_path / "five", layers=5), precision)
    assert five - two == 3 * (BERT_LAYER * number_bytes + memory.LAYER_BYTES)


def test_in_fp32_small_factors_count_five_twelfths_more(tmp_path: Path) -> None:
    two = model_bytes(save_bert(tmp_path / "two", layers=2), "fp32")
    five = model_bytes(save_bert(tmp_path / "five", layers=5), "fp32")
    assert five - two == 3 * (BERT_LAYER * 4 * 17 // 12 + memory.LAYER_BYTES)


def test_layers_that_look_back_alone_take_more(tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "decoder", {**DECODER, "model_type": "qwen3"})
    assert model_bytes(folder, "bf16") > (
        memory.FIRST_BYTES + DECODER["num_hidden_layers"] * memory.CAUSAL_LAYER_BYTES
    )


def test_the_type_of_the_checkpoint_and_its_container_make_no_difference(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model")
    before = model_bytes(folder, "bf16")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {name: values.astype(ml_dtypes.bfloat16) for name, values in tensors.items()}
    save_torch(folder / "pytorch_model.bin", halves)
    assert model_bytes(folder, "bf16") == before


def test_a_unigram_tokenizer_takes_five_times_as_much(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model", vocab=300)
    before = model_bytes(folder, "bf16")
    unigram = Tokenizer(models.Unigram([(f"w{n}", -1.0) for n in range(300)], unk_id=0))
    unigram.save(str(folder / "tokenizer.json"))
    more = memory.UNIGRAM_TOKEN_BYTES - memory.TOKEN_BYTES
    assert model_bytes(folder, "bf16") - before == 300 * more


def test_a_token_called_vocab_is_not_taken_for_the_vocabulary(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model", vocab=300)
    before = model_bytes(folder, "bf16")
    words = Tokenizer(models.WordLevel({'"vocab":[': 0, "vocab": 1}, unk_token="vocab"))
    words.save(str(folder / "tokenizer.json"))
    assert model_bytes(folder, "bf16") == before


def test_a_sentencepiece_file_is_taken_for_a_unigram_tokenizer(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model", vocab=300)
    before = model_bytes(folder, "bf16")
    (folder / "tokenizer.json").rename(folder / "sentencepiece.bpe.model")
    assert model_bytes(folder, "bf16") > before


def test_a_dense_module_counts(tmp_path: Path) -> None:
    plain, dense = save_bert(tmp_path / "plain"), save_bert(tmp_path / "dense")
    for folder, kinds in ((plain, ()), (dense, ("Dense",))):
        save_modules(folder, "Transformer", "Pooling", *kinds)
        write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    save_module(
        dense / "2_Dense",
        {"in_features": HIDDEN, "out_features": 100, "bias": False},
        {"linear.weight": draw(100, HIDDEN)},
    )
    assert model_bytes(dense, "bf16") - model_bytes(plain, "bf16") == 100 * HIDDEN * 2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_static_model_takes_its_tables_as_they_are_stored(
    tmp_path: Path, precision: ChosenPrecision
) -> None:
    wide = draw(300, 32)
    save_static(tmp_path / "wide", {"embedding.weight": wide}, vocab=300)
    save_static(tmp_path / "half", {"embedding.weight": wide.astype(np.float16)}, vocab=300)
    saved = model_bytes(tmp_path / "wide", precision) - model_bytes(tmp_path / "half", precision)
    assert saved == wide.nbytes // 2


def test_a_static_model_without_modules_is_known_as_one(tmp_path: Path) -> None:
    folder = save_static(
        tmp_path,
        {"embeddings": draw(300, 32)},
        vocab=300,
        config={"model_type": "model2vec"},
        modules=None,
    )
    assert model_bytes(folder, "int8") == (
        memory.FIRST_BYTES + memory.STATIC_BYTES + 300 * (32 * 4 + memory.TOKEN_BYTES)
    )


def test_routes_add_up(tmp_path: Path) -> None:
    save_modules(tmp_path, "Router")
    routes = {"query": "query_0_Transformer", "document": "document_0_Transformer"}
    poolings = {side: f"{side}_1_Pooling" for side in routes}
    alone = 0
    for side, name in routes.items():
        alone = model_bytes(save_bert(tmp_path / name), "bf16") - memory.FIRST_BYTES
        write(tmp_path / poolings[side] / "config.json", {})
    router = {
        "types": {
            name: f"{PACKAGE}{name.rpartition('_')[2]}"
            for name in (*routes.values(), *poolings.values())
        },
        "structure": {side: [routes[side], poolings[side]] for side in routes},
        "parameters": {},
    }
    write(tmp_path / "router_config.json", router)
    assert model_bytes(tmp_path, "bf16") == memory.FIRST_BYTES + 2 * alone


def test_what_cannot_be_loaded_is_refused_as_loading_would(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CorruptModel, match=r"layer\.1\.output\.dense\.weight"):
        model_bytes(folder, "fp32")
    write(folder / "config.json", {"model_type": "unheard_of"})
    with pytest.raises(UnsupportedModel, match="unheard_of"):
        model_bytes(folder, "fp32")


def test_a_number_of_parameters_alone_gives_a_generous_guess() -> None:
    fp32, bf16, int8 = (bytes_of_parameters(100_000_000, one) for one in PRECISIONS)
    assert 400_000_000 < fp32 < 600_000_000
    assert fp32 > bf16 > int8 > 100_000_000


def test_models_may_take_most_of_the_memory_but_for_what_the_process_takes() -> None:
    assert memory.budget_of(memory.OWN_BYTES // 2) == 0
    assert memory.budget_of(2 * memory.OWN_BYTES) == int(0.7 * memory.OWN_BYTES)
    assert 0 <= memory.default_budget_bytes() < memory.total_bytes()


@linux_only
def test_memory_of_the_process_counts_when_it_is_written_and_not_after_it_was_freed() -> None:
    before = memory.anonymous_bytes()
    array = np.ones(BUFFER_BYTES, np.uint8)
    assert memory.anonymous_bytes() - before > BUFFER_BYTES // 2
    del array
    memory.trim()
    assert memory.anonymous_bytes() - before < BUFFER_BYTES // 2


@linux_only
def test_a_mapped_file_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(BUFFER_BYTES))
    before = memory.anonymous_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert memory.anonymous_bytes() - before < BUFFER_BYTES // 2
