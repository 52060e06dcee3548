"""From any checkpoint to Fledge's own file: every spelling found, every damage refused."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, get_args

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import save_file

from fledge.engine import weights
from fledge.engine.architectures.family import Weight
from fledge.engine.tensorfile import Array, Planned, read_slabs, write_tensors
from fledge.engine.weights import Part, StoredPrecision, open_weights, quantize_rows
from fledge.errors import CorruptModel, ModelLoadError, UnsupportedModel
from tests.unit.engine.torch_files import save_torch

Pieces = Iterator[tuple[str, Array]]

TABLE = [
    Weight("linear.weight", "encoder.dense.weight", "matrix"),
    Weight("linear.bias", "encoder.dense.bias", "vector"),
    Weight("words.weight", "embeddings.words.weight", "table"),
    Weight("norm.weight", "encoder.LayerNorm.weight", "vector"),
    Weight("norm.bias", "encoder.LayerNorm.bias", "vector"),
]
RANDOM = np.random.default_rng(3)
TENSORS: Mapping[str, Array] = {
    "encoder.dense.weight": RANDOM.normal(size=(3, 5)).astype(np.float32),
    "encoder.dense.bias": RANDOM.normal(size=3).astype(np.float32),
    "embeddings.words.weight": RANDOM.normal(size=(7, 5)).astype(np.float32),
    "encoder.LayerNorm.weight": RANDOM.normal(size=5).astype(np.float32),
    "encoder.LayerNorm.bias": RANDOM.normal(size=5).astype(np.float32),
}


def checkpoint(folder: Path, tensors: Mapping[str, Array] = TENSORS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def open_one(
    folder: Path,
    cache: Path,
    *,
    precision: StoredPrecision = "fp32",
    identity: str = "model@1",
    table: Sequence[Weight] = TABLE,
) -> Mapping[str, Array]:
    part = Part(folder, table, "bert.")
    return open_weights([part], identity=identity, precision=precision, cache_dir=cache)


def cached_files(cache: Path) -> list[Path]:
    return sorted((cache / "weights").iterdir())


def content(arrays: Mapping[str, Array]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def renamed(change: Callable[[str], str]) -> dict[str, Array]:
    return {change(name): array for name, array in TENSORS.items()}


def old_norm(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    )


@pytest.mark.parametrize(
    "change",
    [str, old_norm, lambda name: f"bert.{name}", lambda name: f"bert.{old_norm(name)}"],
    ids=["bare", "gamma and beta", "prefixed", "prefixed gamma and beta"],
)
def test_weights_are_found_under_every_spelling(
    change: Callable[[str], str], tmp_path: Path
) -> None:
    opened = open_one(checkpoint(tmp_path / "m", renamed(change)), tmp_path / "c")
    assert set(opened) == {weight.name for weight in TABLE}
    for weight in TABLE:
        assert (opened[weight.name] == TENSORS[weight.source]).all()


def test_tensors_that_no_table_names_are_left_out(tmp_path: Path) -> None:
    extra = {**TENSORS, "cls.predictions.bias": np.ones(3, np.float32)}
    opened = open_one(checkpoint(tmp_path / "m", extra), tmp_path / "c")
    assert set(opened) == {weight.name for weight in TABLE}


def test_shards_are_found_through_their_index(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    names = sorted(TENSORS)
    shards = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    folder.mkdir()
    for file, own in shards.items():
        save_file({name: TENSORS[name] for name in own}, folder / file)
    weight_map = {name: file for file, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    whole = open_one(checkpoint(tmp_path / "whole"), tmp_path / "c1")
    assert content(open_one(folder, tmp_path / "c2")) == content(whole)
    (folder / "b.safetensors").unlink()
    with pytest.raises(CorruptModel, match=r"lacks b\.safetensors"):
        open_one(folder, tmp_path / "c3")


def test_a_tensor_in_two_shards_is_a_corrupt_model(tmp_path: Path) -> None:
    name = min(TENSORS)
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: TENSORS[name]}, tmp_path / file)
    weight_map = {name: "a.safetensors", "other": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CorruptModel, match=r"b\.safetensors holds .* so does .*a\.safetensors"):
        open_one(tmp_path, tmp_path / "c")


@pytest.mark.parametrize(
    "index",
    [b"{", b"[]", b"{}", b'{"weight_map": 7}', b'{"weight_map": {"a": [1]}}', b"[" * 100_000],
)
def test_a_malformed_index_is_a_corrupt_model(index: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(CorruptModel):
        open_one(tmp_path, tmp_path / "c")


def test_a_missing_tensor_is_named_with_its_prefix(tmp_path: Path) -> None:
    tensors = {name: array for name, array in TENSORS.items() if name != "encoder.dense.bias"}
    with pytest.raises(CorruptModel, match=r"'encoder.dense.bias'.*with or without 'bert\.'"):
        open_one(checkpoint(tmp_path / "m", tensors), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_folder_without_a_checkpoint_is_a_corrupt_model(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        open_one(tmp_path, tmp_path / "c")


def test_a_torch_file_gives_the_same_weights(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    save_torch(folder / "pytorch_model.bin", TENSORS)
    wanted = content(open_one(checkpoint(tmp_path / "new"), tmp_path / "c", identity="new"))
    assert content(open_one(folder, tmp_path / "c", identity="old")) == wanted


def test_torch_shards_are_found_through_their_index(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    names = sorted(TENSORS)
    for file, own in {"a.bin": names[:2], "b.bin": names[2:]}.items():
        save_torch(folder / file, {name: TENSORS[name] for name in own})
    weight_map = {name: "a.bin" if name in names[:2] else "b.bin" for name in names}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    wanted = content(open_one(checkpoint(tmp_path / "new"), tmp_path / "c", identity="new"))
    assert content(open_one(folder, tmp_path / "c", identity="old")) == wanted
    (folder / "b.bin").unlink()
    with pytest.raises(CorruptModel, match=r"lacks b\.bin"):
        open_one(folder, tmp_path / "c", identity="other")


def test_of_both_kinds_safetensors_are_read_and_the_other_is_not_opened(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"no checkpoint at all")
    assert set(open_one(folder, tmp_path / "c")) == {weight.name for weight in TABLE}


def test_a_transposed_weight_of_a_torch_file_is_read_as_it_is_shown(tmp_path: Path) -> None:
    name = "encoder.dense.weight"
    save_torch(tmp_path / "pytorch_model.bin", {**TENSORS, name: TENSORS[name].T.copy().T})
    assert not TENSORS[name].T.copy().T.flags.c_contiguous
    opened = open_one(tmp_path, tmp_path / "c")
    assert opened["linear.weight"].tolist() == TENSORS[name].tolist()


@pytest.mark.parametrize("precision", get_args(StoredPrecision))
@pytest.mark.parametrize("saved", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_are_the_same_however_many_rows_are_read_at_a_time(
    saved: Any, precision: StoredPrecision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "m", {name: a.astype(saved) for name, a in TENSORS.items()})
    wanted = content(open_one(folder, tmp_path / "whole", precision=precision))
    monkeypatch.setattr(weights, "read_slabs", lambda path, info: read_slabs(path, info, items=5))
    assert content(open_one(folder, tmp_path / "slabs", precision=precision)) == wanted


@pytest.mark.parametrize("saved", [np.int64, np.int8, np.uint8, np.bool_])
@pytest.mark.parametrize("name", ["encoder.dense.weight", "embeddings.words.weight"])
def test_a_checkpoint_that_is_quantized_already_is_refused(
    name: str, saved: Any, tmp_path: Path
) -> None:
    tensors = {**TENSORS, name: TENSORS[name].astype(saved)}
    with pytest.raises(UnsupportedModel, match=f"{name}.*saved as"):
        open_one(checkpoint(tmp_path / "m", tensors), tmp_path / "c")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", TENSORS)
def test_weights_that_are_not_finite_are_refused_by_name(
    name: str, bad: float, tmp_path: Path
) -> None:
    damaged = TENSORS[name].copy()
    damaged.flat[1] = bad
    with pytest.raises(CorruptModel, match=name):
        open_one(checkpoint(tmp_path / "m", {**TENSORS, name: damaged}), tmp_path / "c")
    assert cached_files(tmp_path / "c") == []


def test_a_double_beyond_float32_is_refused(tmp_path: Path) -> None:
    wide = {**TENSORS, "encoder.dense.bias": np.full(3, 1e300)}
    with pytest.raises(CorruptModel, match="not finite"):
        open_one(checkpoint(tmp_path / "m", wide), tmp_path / "c")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.dense.weight", (15,)),
        ("encoder.dense.weight", (3, 5, 1)),
        ("encoder.dense.weight", (3, 0)),
        ("encoder.dense.bias", ()),
        ("encoder.dense.bias", (0,)),
        ("embeddings.words.weight", (35,)),
    ],
)
def test_a_weight_of_an_impossible_shape_is_refused_by_name(
    name: str, shape: tuple[int, ...], precision: StoredPrecision, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path / "m", {**TENSORS, name: np.ones(shape, np.float32)})
    with pytest.raises(CorruptModel, match=name):
        open_one(folder, tmp_path / "c", precision=precision)


@pytest.mark.parametrize("saved", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_checkpoints_of_every_float_type_are_read(saved: Any, tmp_path: Path) -> None:
    tensors = {name: array.astype(saved) for name, array in TENSORS.items()}
    opened = open_one(checkpoint(tmp_path / "m", tensors), tmp_path / "c")
    for weight in TABLE:
        expected = tensors[weight.source].astype(np.float32)
        assert opened[weight.name].dtype == np.float32
        assert (opened[weight.name] == expected).all()


def test_each_kind_of_weight_is_stored_as_its_use_asks_for(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    kinds: dict[str, dict[str, str]] = {}
    for precision in get_args(StoredPrecision):
        opened = open_one(folder, tmp_path / "c", precision=precision)
        kinds[precision] = {name: str(array.dtype) for name, array in opened.items()}
    norms = {"linear.bias": "float32", "norm.weight": "float32", "norm.bias": "float32"}
    assert kinds["fp32"] == {"linear.weight": "float32", "words.weight": "float32", **norms}
    assert kinds["bf16"] == {"linear.weight": "bfloat16", "words.weight": "bfloat16", **norms}
    assert kinds["int8"] == {
        "linear.weight": "int8",
        "linear.weight_scale": "float32",
        "words.weight": "bfloat16",
        **norms,
    }


def test_bf16_is_rounded_to_nearest(tmp_path: Path) -> None:
    opened = open_one(checkpoint(tmp_path / "m"), tmp_path / "c", precision="bf16")
    expected = TENSORS["encoder.dense.weight"].astype(ml_dtypes.bfloat16)
    assert opened["linear.weight"].tobytes() == expected.tobytes()


ROWS = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


@given(ROWS)
def test_int8_is_within_half_a_step_of_every_value(values: Array) -> None:
    quantized, scale = quantize_rows(values)
    assert quantized.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == (len(values), 1)
    assert quantized.min() >= -127
    steps = scale.astype(np.float64)
    error = np.abs(quantized * steps - values.astype(np.float64))
    assert (error <= steps * 0.5001).all()
    assert not quantized[~values.any(axis=1)].any()


def test_the_second_open_reads_no_checkpoint(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    first = content(open_one(folder, tmp_path / "c"))
    (folder / "model.safetensors").unlink()
    assert content(open_one(folder, tmp_path / "c")) == first


def test_another_precision_or_identity_makes_another_file(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    for precision, identity in (("fp32", "a@1"), ("bf16", "a@1"), ("fp32", "a@2"), ("fp32", "b@1")):
        open_one(folder, tmp_path / "c", precision=precision, identity=identity)  # type: ignore[arg-type] # likewise
    assert len(cached_files(tmp_path / "c")) == 4


def test_two_folders_of_one_model_share_a_file(tmp_path: Path) -> None:
    checkpoint(tmp_path / "m")
    dense = checkpoint(tmp_path / "m" / "2_Dense", {"linear.weight": np.ones((2, 5), np.float32)})
    parts = [
        Part(tmp_path / "m", TABLE),
        Part(dense, [Weight("module.2.weight", "linear.weight", "matrix")]),
    ]
    opened = open_weights(parts, identity="x", precision="fp32", cache_dir=tmp_path / "c")
    assert opened["module.2.weight"].shape == (2, 5)
    assert len(cached_files(tmp_path / "c")) == 1


class Crashed(BaseException):
    """What no `except Exception` catches."""


def test_a_crash_while_writing_leaves_nothing_that_is_used_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "m")
    write = write_tensors

    def crash(file: BinaryIO, plan: Sequence[Planned], pieces: Pieces) -> None:
        file.write(b"half a file")
        raise Crashed

    monkeypatch.setattr(weights, "write_tensors", crash)
    with pytest.raises(Crashed):
        open_one(folder, tmp_path / "c")
    assert cached_files(tmp_path / "c") == []
    monkeypatch.setattr(weights, "write_tensors", write)
    assert set(open_one(folder, tmp_path / "c")) == {weight.name for weight in TABLE}


@pytest.mark.parametrize("damage", [b"", b"half a file", None])
def test_a_cached_file_that_was_damaged_is_made_again(damage: bytes | None, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    good = content(open_one(folder, tmp_path / "c"))
    (path,) = cached_files(tmp_path / "c")
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert content(open_one(folder, tmp_path / "c")) == good


def test_conversions_at_the_same_time_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "m")
    together = threading.Barrier(2, timeout=10)
    write = write_tensors

    def write_together(file: BinaryIO, plan: Sequence[Planned], pieces: Pieces) -> None:
        together.wait()
        write(file, plan, pieces)
        together.wait()

    monkeypatch.setattr(weights, "write_tensors", write_together)
    with ThreadPoolExecutor(2) as threads:
        opened = list(threads.map(lambda _: open_one(folder, tmp_path / "c"), range(2)))
    assert content(opened[0]) == content(opened[1])
    assert len(cached_files(tmp_path / "c")) == 1


def test_a_cache_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    (tmp_path / "c").write_text("a file where the folder should be")
    with pytest.raises(ModelLoadError, match="set cache_dir to a folder that can be written"):
        open_one(folder, tmp_path / "c")


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    open_one(checkpoint(tmp_path / "m"), Path("~/cache"))
    assert len(cached_files(tmp_path / "cache")) == 1


def test_mapped_weights_cannot_be_written_to(tmp_path: Path) -> None:
    opened = open_one(checkpoint(tmp_path / "m"), tmp_path / "c")
    with pytest.raises(ValueError, match="read-only"):
        opened["linear.bias"][0] = 1


@pytest.mark.parametrize("precision", get_args(StoredPrecision))
def test_every_mapped_weight_is_aligned_to_its_items(
    precision: StoredPrecision, tmp_path: Path
) -> None:
    opened = open_one(checkpoint(tmp_path / "m"), tmp_path / "c", precision=precision)
    assert all(array.flags.aligned for array in opened.values())
