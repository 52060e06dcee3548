"""How much memory there is, how much this process has, and how much a model will take.

Only memory that no file backs is counted: the system takes mapped pages back when it needs them.
What a model takes of that was measured, not derived: the numbers below are from eight models in
three precisions (OpenVINO 2026.4, tokenizers 0.23, glibc 2.36, AVX-512; November 2026), each in a
fresh process. docs/benchmarks/cold-start.md has the estimates beside what was measured.
"""

import ctypes
import functools
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fledge.engine import cpu
from fledge.engine.chain import Routing, Step, read_chain
from fledge.engine.cpu import ChosenPrecision
from fledge.engine.recipe import Recipe, read_recipe
from fledge.engine.routes import reachable
from fledge.engine.static_recipe import STATIC_KINDS, is_bare_model2vec
from fledge.engine.weights import Located, Part, find_weights, locate
from fledge.errors import CorruptModel

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

BUDGET_SHARE = 0.7
"""Of the memory that there is, what models may take. The rest is for what grows with the work and
not with the models (a batch's activations, new shapes: up to 60 MB for each model that is busy),
for the mapped tables of the models, which are slow when they have no room in the page cache, for
whatever a load needs while it lasts, and for the rest of the machine."""

OWN_BYTES = 256 * 2**20
"""What this process takes without any model, with room for its requests."""

ASSUMED_BYTES = 8 * 2**30
"""Where the system does not say how much there is."""

NUMBER_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}

FIRST_BYTES = 8_000_000
"""Of any model, whatever its size: the runtime's and the tokenizer's own."""

LAYER_BYTES = 2_200_000
CAUSAL_LAYER_BYTES = 5_500_000
"""Of one layer: compiled kernels, and the activations of a small batch."""

TWICE_PACKED_BYTES = 10_000_000
TWICE_PACKED_SHARE = 5 / 12
"""In float32 the runtime packs a matrix up to that size again for larger batches, where its result
is added to something: two of a BERT layer's six, which have 5/12 of its numbers."""

TOKEN_BYTES = 300
UNIGRAM_TOKEN_BYTES = 1_550
"""Of the tokenizers library: a Unigram model keeps its tokens as a tree of single bytes."""

STATIC_BYTES = 3_000_000

PARAMETERS_FACTOR = 1.2
PARAMETERS_BYTES = 30_000_000
"""What stands for all of the above where only the number of parameters is known."""

VOCABULARY = re.compile(rb'"vocab"\s*:\s*([\[{])')
HEAD_BYTES = 4 * 2**20
"""Of a tokenizer.json, what comes before its vocabulary: some hundred kilobytes at most."""


def anonymous_bytes() -> int:
    """Memory of this process that no file backs, now.

    Where the system is not Linux: the most that it ever had in memory, files included, which is
    all that the standard library knows; on Windows 0.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        if resource is None:
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def trim() -> None:
    """Give memory that was freed back to the system, where the allocator can: glibc's."""
    if malloc_trim := _malloc_trim():
        malloc_trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return None
    function.argtypes = [ctypes.c_size_t]
    found: Callable[[int], int] = function
    return found


def total_bytes() -> int:
    """The machine's memory, or the container's limit where that is smaller."""
    return cpu.detect().memory_bytes or ASSUMED_BYTES


def default_budget_bytes() -> int:
    """What models may take together, unless somebody says otherwise. See `BUDGET_SHARE`."""
    return budget_of(total_bytes())


def budget_of(available_bytes: int) -> int:
    """A share of the memory that there is, less what the process takes itself; 0 if that is all."""
    return int(BUDGET_SHARE * max(0, available_bytes - OWN_BYTES))


def bytes_of_parameters(parameters: int, precision: ChosenPrecision) -> int:
    """About what a model will take, of which nothing is known but its number of parameters.

    As if all of them were factors of matmuls: too much where many are in a table, as those of
    multilingual models are.
    """
    return round(parameters * NUMBER_BYTES[precision] * PARAMETERS_FACTOR) + PARAMETERS_BYTES


def model_bytes(folder: Path, precision: ChosenPrecision) -> int:
    """What a model will take when it is loaded, from its configs and the headers of its weights.

    Factors of matmuls are packed into memory of the process's own; tables stay in the mapped file.

    Raises:
        ModelLoadError: what loading it would raise, as far as configs and headers tell.
    """
    chain = read_chain(folder)
    routes: Sequence[Sequence[Step] | None] = [chain] if not isinstance(chain, Routing) else []
    if isinstance(chain, Routing):
        routes = [chain.routes[name] for name in reachable(chain)]
    return FIRST_BYTES + sum(_route_bytes(folder, steps, precision) for steps in routes)


def _route_bytes(root: Path, steps: Sequence[Step] | None, precision: ChosenPrecision) -> int:
    is_static = steps[0].kind in STATIC_KINDS if steps else is_bare_model2vec(root)
    if is_static:
        return _static_bytes([step.folder for step in steps or ()] or [root])
    return _transformer_bytes(read_recipe(root, steps), precision)


def _transformer_bytes(recipe: Recipe, precision: ChosenPrecision) -> int:
    table = list(recipe.family.weights(recipe.shape))
    parts = [Part(recipe.folder, table, recipe.family.prefix)]
    parts += [Part(folder, module.weights) for module, folder in recipe.modules if module.weights]
    sizes = [
        _numbers(located) * NUMBER_BYTES[precision]
        for part in parts
        for weight, located in find_weights(part)
        if weight.kind == "matrix"
    ]
    packed = sum(sizes)
    if precision == "fp32":
        small = sum(size for size in sizes if size <= TWICE_PACKED_BYTES)
        packed += round(small * TWICE_PACKED_SHARE)
    per_layer = CAUSAL_LAYER_BYTES if recipe.shape.is_causal else LAYER_BYTES
    tokenizer = _tokenizer_bytes(recipe.folder, recipe.shape.vocab_size)
    return packed + per_layer * recipe.shape.num_layers + tokenizer


def _static_bytes(folders: Sequence[Path]) -> int:
    """All tensors as they are stored, which is how they are read, and a word for each row."""
    tensors: list[Located] = []
    for folder in dict.fromkeys(folders):
        try:
            tensors += locate(folder).values()
        except CorruptModel:  # a module without weights, or a damaged one: loading will say so
            continue
    stored = sum(one.info.end - one.info.start for one in tensors)
    rows = max((one.info.shape[0] for one in tensors if one.info.shape), default=0)
    return STATIC_BYTES + stored + _tokenizer_bytes(folders[0], rows)


def _numbers(located: Located) -> int:
    return math.prod(located.info.shape)


def _tokenizer_bytes(folder: Path, tokens: int) -> int:
    return tokens * (UNIGRAM_TOKEN_BYTES if _is_unigram(folder) else TOKEN_BYTES)


def _is_unigram(folder: Path) -> bool:
    """By the vocabulary of its tokenizer.json: a list of pairs, where others have an object."""
    try:
        with (folder / "tokenizer.json").open("rb") as file:
            found = VOCABULARY.search(file.read(HEAD_BYTES))
    except OSError:
        # SentencePiece's own file may hold either kind; the larger one is the safer guess
        return any(folder.glob("*.model"))
    return found is not None and found[1] == b"["


MOST_IN_TABLES = 1_000_000_000
SHARE_IN_TABLES = 11 / 12
"""What a model has of its numbers in tables, which stay in their file, at most: more than any
that is known of. LaBSE has 385 of 471 million in them, Qwen3-Embedding-8B 622 million."""


def least_bytes(parameters: int, precision: ChosenPrecision) -> int:
    """What a model of so many parameters takes at the very least; a refusal may rest on it."""
    in_tables = min(MOST_IN_TABLES, round(parameters * SHARE_IN_TABLES))
    return FIRST_BYTES + (parameters - in_tables) * NUMBER_BYTES[precision]
