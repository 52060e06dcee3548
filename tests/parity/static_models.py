"""Factories of static models, saved by sentence-transformers itself from random tables."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from tokenizers import Tokenizer

from tests.parity.reference import torch
from tests.parity.vocabularies import CORPUS, save_tokenizer

WIDTH = 48


def random_tensor(*shape: int, seed: int = 0) -> Any:
    """Normal numbers, the same in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def static_embedding(folder: Path, *, family: str = "bert", dtype: str = "float32") -> Any:
    """A StaticEmbedding over one of the small tokenizers, whose files are left in the folder."""
    folder.mkdir(parents=True)
    save_tokenizer(folder, family, max_length=None)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = max(tokenizer.get_vocab().values()) + 1
    weights = random_tensor(size, WIDTH).to(getattr(torch, dtype))
    return StaticEmbedding(tokenizer, embedding_weights=weights)


def dense(inputs: int, outputs: int, activation: Any = None) -> Any:
    """A Dense whose weights are large enough to matter."""
    module = Dense(inputs, outputs, activation_function=activation)
    with torch.no_grad():
        for number, weight in enumerate(module.parameters()):
            weight.copy_(random_tensor(*weight.shape, seed=number) * 0.3)
    return module


def layer_norm(size: int) -> Any:
    """A LayerNorm that does something."""
    module = LayerNorm(size)
    with torch.no_grad():
        module.norm.weight.copy_(random_tensor(size, seed=8) + 1)
        module.norm.bias.copy_(random_tensor(size, seed=9))
    return module


def words() -> list[str]:
    """The words of the corpus, some in two cases, with what pads in front."""
    found = dict.fromkeys(" ".join(CORPUS).split())
    found.update(dict.fromkeys(word.lower() for word in list(found)[::2]))
    return ["PADDING_TOKEN", *found]


def weights_of_words() -> dict[str, float]:
    """A weight for every third word."""
    chosen = words()[1::3]
    return dict(zip(chosen, random_tensor(len(chosen), seed=3).abs().tolist(), strict=True))


def word_embeddings(*, lower: bool = False, max_seq_length: int = 1_000_000) -> Any:
    """Rows for words between white space."""
    vocabulary = words()
    tokenizer = WhitespaceTokenizer(vocabulary, stop_words=["the", "The"], do_lower_case=lower)
    table = random_tensor(len(vocabulary), WIDTH, seed=4)
    return WordEmbeddings(tokenizer, table, max_seq_length=max_seq_length)


def word_weights() -> Any:
    """Behind `word_embeddings`."""
    return WordWeights(words(), weights_of_words(), unknown_word_weight=0.7)


def bag_of_words(*, cumulative: bool = True) -> Any:
    """One number a word."""
    return BoW(
        words(), weights_of_words(), unknown_word_weight=2, cumulative_term_frequency=cumulative
    )


def save(folder: Path, *modules: Any, **options: Any) -> Path:
    """A folder as sentence-transformers saves the modules."""
    model = SentenceTransformer(modules=list(modules), device="cpu", **options)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def rewrite_tensors(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """The folder with other tensors in its first file of weights."""
    path = next(folder.rglob("model.safetensors"))
    save_file({name: one.contiguous() for name, one in change(load_file(path)).items()}, path)
    return folder


def in_old_spelling(folder: Path) -> Path:
    """The folder with the class paths that releases up to 5.3 wrote."""
    for path in [folder / "modules.json", *folder.rglob("router_config.json")]:
        text = path.read_text()
        for entry in _types(json.loads(text)):
            text = text.replace(f'"{entry}"', f'"sentence_transformers.models.{_last(entry)}"')
        path.write_text(text)
    for path in folder.rglob("wordembedding_config.json"):
        config = json.loads(path.read_text())
        package = "sentence_transformers.models.tokenizer.WhitespaceTokenizer."
        path.write_text(json.dumps({**config, "tokenizer_class": package + "WhitespaceTokenizer"}))
    return folder


def _types(config: Any) -> Sequence[str]:
    if isinstance(config, dict):
        return list(config["types"].values())
    return [entry["type"] for entry in config]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


__all__ = ["Normalize", "Pooling"]
