"""Texts -> tokens -> packed batch -> hidden states -> modules -> vectors: one model in memory.

Loading puts the parts together; afterwards `encode` may be called by any thread and `compute` by
the lane's thread alone.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fledge.engine.batcher import Cost
from fledge.engine.modules import WeightedLayerPooling
from fledge.engine.ops.nodes import Node
from fledge.engine.ops.openvino import (
    WHOLE_ROW,
    CompiledGraph,
    OpenVinoOps,
    RuntimeConfig,
    quantization_group,
)
from fledge.engine.packing import PackingRules, Row, pack
from fledge.engine.recipe import Recipe
from fledge.engine.tensorfile import Array, MappedTensors
from fledge.engine.tokenizer import Encoded, Tokenizer
from fledge.engine.tokenizer_files import read_tokenizer
from fledge.engine.weights import Part, StoredPrecision, open_weights
from fledge.errors import ComputeError, CorruptModel, InvalidRequest
from fledge.types import EmbedJob, Tokens, Vectors

log = logging.getLogger(__name__)

ATTENTION_COST = 3.0
"""How much dearer a multiply-add of attention is than one of a matmul, on the CPUs measured."""

UNKNOWN_SHARE = 0.01
"""Of a tokenizer's own tokens, those that the network may lack: a few unused ones are refused only
where a text has them, and more say that the tokenizer belongs to another model."""

WARM_UP_LENGTHS = (16, 64, 64)
"""The first packs the weights; the last one tells the speed, on a shape that was seen before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """Choices that are made before a model is loaded.

    Attributes:
        identity: model id and revision, the key of the converted weights.
        inference_hint: the type that matmuls compute in, `f32` or `bf16`.
        whole_row_groups: the CPU quantizes activations fast only with one scale per row.
    """

    identity: str
    precision: StoredPrecision
    inference_hint: str
    threads: int
    cache_dir: Path
    whole_row_groups: bool = False


class Pipeline:
    """One model, ready to compute."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, graph: CompiledGraph) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self._graph = graph
        shape = recipe.shape
        self._rules = PackingRules.of(shape)
        attention = ATTENTION_COST * 2 * shape.attention_size * shape.num_layers
        self.cost = Cost(per_cell=attention / shape.weights_per_token)
        self.rate = self._warm_up()

    def encode(self, job: EmbedJob) -> list[Encoded]:
        """The job's items as rows.

        Raises:
            InvalidRequest: a text spells out a token that the tokenizer knows and the network does
                not, as Qwen3-Embedding-8B's `<think>`; and what `Tokenizer.encode` raises.
        """
        encoded = self.tokenizer.encode(
            job.items,
            prompt=job.prompt,
            mask_prompt=not self.recipe.pooling.include_prompt,
            truncation=job.truncation,
        )
        if self.tokenizer.vocab_size > self.vocab_size:
            _check_ids(encoded, self.vocab_size)
        return encoded

    @property
    def vocab_size(self) -> int:
        """Token ids are below it: both the tokenizer and the network know them."""
        return min(self.tokenizer.vocab_size, self.recipe.shape.vocab_size)

    def tokenize(self, texts: Sequence[str], prompt: str | None) -> list[Tokens]:
        """The tokens of texts, nothing cut."""
        return self.tokenizer.tokenize(texts, prompt)

    def compute(self, rows: Sequence[Row]) -> Vectors:
        """Vectors `[rows, dim]` float32 before a trailing Normalize.

        Raises:
            ComputeError: the runtime failed.
        """
        return self._graph.run(pack(rows, self._rules))[: len(rows)]

    def _warm_up(self) -> float:
        """Run the first inferences, which pack the weights; returns the speed seen, cost/s.

        Raises:
            CorruptModel: the model computes no number at all, or more or fewer than it promises.
        """
        rate = 1.0
        for length in WARM_UP_LENGTHS:
            count = min(length, self.tokenizer.max_seq_length)
            start = time.perf_counter()
            vectors = self.compute([Row([0] * count)])
            rate = self.cost.of(count, 1, count) / (time.perf_counter() - start)
            if not np.isfinite(vectors).all():
                raise CorruptModel("the model's warm-up gave values that are not finite")
            if vectors.shape[1] != self.recipe.dimension:
                raise CorruptModel(
                    f"the model's vectors have {vectors.shape[1]} numbers, "
                    f"but its configs speak of {self.recipe.dimension}"
                )
        return rate

    def close(self) -> None:
        """Give the memory back."""
        self._graph.close()


def _quantization_group(weights: Mapping[str, Array], compilation: Compilation) -> int | None:
    if compilation.precision != "int8":
        return None
    return WHOLE_ROW if compilation.whole_row_groups else quantization_group(weights)


def _check_sizes(recipe: Recipe, weights: Mapping[str, Array]) -> None:
    """The config and the checkpoint must speak of one network.

    The runtime takes the sizes of matrices from the weights, where the arithmetic takes them from
    the config, and it looks up whatever it is asked for, also beyond the end of a table.
    """
    modules = (weight for module, _ in recipe.modules for weight in module.weights)
    for weight in (*recipe.family.weights(recipe.shape), *modules):
        if weight.rows is not None and len(weights[weight.name]) != weight.rows:
            raise _misfit(recipe, weight.name, weight.rows, weights)
    shape = recipe.shape
    rows = {
        "word.weight": shape.vocab_size,
        "position.weight": shape.positions.offset + shape.max_length,
        "relative.weight": shape.relative.num_buckets if shape.relative else 0,
    }
    for name, promised in rows.items():
        if name in weights and len(weights[name]) < promised:
            raise _misfit(recipe, name, promised, weights)


def _misfit(recipe: Recipe, name: str, rows: int, weights: Mapping[str, Array]) -> CorruptModel:
    return CorruptModel(
        f"{recipe.folder}: the config speaks of {rows} rows of {name}, "
        f"but the checkpoint has {len(weights[name])}"
    )


def load_pipeline(recipe: Recipe, compilation: Compilation) -> Pipeline:
    """Load a model from its recipe.

    Raises:
        CorruptModel: tokenizer, weights and config do not fit each other.
        ModelLoadError: the runtime cannot compile it.
    """
    watch = _Stopwatch()
    tokenizer = _open_tokenizer(recipe)
    weights = _open_weights(recipe, compilation)
    watch.lap("reading")
    with weights.transient_pages():
        ops, output = _build(recipe, weights)
        watch.lap("building")
        graph = ops.compile(output, _runtime_config(compilation, weights))
        watch.lap("compiling")
        try:
            pipeline = Pipeline(recipe, tokenizer, graph)
        except BaseException as error:
            graph.close()
            if isinstance(error, ComputeError):
                raise CorruptModel(
                    f"{recipe.folder}: the warm-up inference failed: {error}"
                ) from error
            raise
    watch.lap("warming up")
    log.debug("%s in %s: %s", compilation.identity, compilation.precision, watch)
    return pipeline


class _Stopwatch:
    """Which stage took how long: `reading 40 ms, building 35 ms`."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._laps: list[str] = []

    def lap(self, stage: str) -> None:
        """The stage has ended, and the next one begins."""
        now = time.perf_counter()
        self._laps.append(f"{stage} {(now - self._since) * 1000:.0f} ms")
        self._since = now

    def __str__(self) -> str:
        return ", ".join(self._laps)


def _open_tokenizer(recipe: Recipe) -> Tokenizer:
    files = read_tokenizer(
        recipe.folder, model_type=recipe.model_type, do_lower_case=recipe.do_lower_case
    )
    tokenizer = Tokenizer(files, max_seq_length=recipe.max_seq_length)
    known = recipe.shape.vocab_size
    if tokenizer.own_vocab_size * (1 - UNKNOWN_SHARE) > known:
        raise CorruptModel(
            f"{recipe.folder}: the tokenizer has {tokenizer.own_vocab_size} tokens, but the "
            f"network only {known}: it is another model's"
        )
    return tokenizer


def _check_ids(encoded: Sequence[Encoded], vocab_size: int) -> None:
    for index, one in enumerate(encoded):
        unknown = max(one.row.ids)
        if unknown >= vocab_size:
            raise InvalidRequest(
                f"`items[{index}]` has the token id {unknown}, which the tokenizer knows, but this "
                f"model has only {vocab_size} tokens",
                field=f"items[{index}]",
            )


def _open_weights(recipe: Recipe, compilation: Compilation) -> MappedTensors:
    parts = [
        Part(recipe.folder, list(recipe.family.weights(recipe.shape)), recipe.family.prefix),
        *(Part(folder, module.weights) for module, folder in recipe.modules if module.weights),
    ]
    weights = open_weights(
        parts,
        identity=compilation.identity,
        precision=compilation.precision,
        cache_dir=compilation.cache_dir,
    )
    _check_sizes(recipe, weights)
    return weights


def _build(recipe: Recipe, weights: Mapping[str, Array]) -> tuple[OpenVinoOps, Node]:
    """The network, and its output, as a graph that is not compiled yet."""
    ops = OpenVinoOps(weights)
    try:
        states = recipe.family.forward(ops, recipe.shape)
        output = states[-1]
        for module, _ in recipe.modules:
            if isinstance(module, WeightedLayerPooling):
                output = module.apply_states(ops, states)
            else:
                output = module.apply(ops, output)
    except RuntimeError as error:  # the runtime checks shapes while the graph is built
        log.warning("%s: %s", recipe.folder, error)  # its words are about its own source files
        raise CorruptModel(
            f"{recipe.folder}: weights do not fit each other or the config: a matrix has another "
            "number of columns than the one before it has rows"
        ) from error
    return ops, output


def _runtime_config(compilation: Compilation, weights: Mapping[str, Array]) -> RuntimeConfig:
    return RuntimeConfig(
        inference_hint=compilation.inference_hint,
        threads=compilation.threads,
        quantization_group=_quantization_group(weights, compilation),
    )
