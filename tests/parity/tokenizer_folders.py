"""Folders that have nothing but a tokenizer: each kind of vocabulary file, with and without JSON.

SentencePiece files are real ones: Mistral's, or trained here by the sentencepiece package, which is
also what transformers reads them with.
"""

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import require, require_folder
from tests.parity.vocabularies import CORPUS, save_tokenizer

TOKENIZERS = Path(__file__).resolve().parents[3] / "shared" / "tokenizers"
SENTENCES = [line for text in CORPUS for line in (text, text.lower(), text.upper())] * 20
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class TokenizerFolder:
    """One folder.

    Attributes:
        model_type: for `config.json`.
        save: writes the vocabulary files.
        config: keys of `tokenizer_config.json` beside those that `save` wrote.
    """

    model_type: str
    save: Callable[[Path], None]
    config: Mapping[str, Any] = field(default_factory=dict)

    def make(self, folder: Path) -> Path:
        """Write it."""
        self.save(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": self.model_type}))
        path = folder / "tokenizer_config.json"
        saved = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(saved | dict(self.config)))
        return folder


def saved_by_transformers(family: str) -> Callable[[Path], None]:
    """A small vocabulary as `tokenizer.json`."""

    def save(folder: Path) -> None:
        save_tokenizer(folder, family, max_length=None)

    return save


def vocabulary_of(family: str) -> Callable[[Path], None]:
    """The same in the files of old: vocab.txt, or vocab.json and merges.txt."""

    def save(folder: Path) -> None:
        save_tokenizer(folder, family, max_length=None)
        _unpack(json.loads((folder / "tokenizer.json").read_text()), folder)
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()

    return save


def _unpack(saved: Mapping[str, Any], folder: Path) -> None:
    model = saved["model"]
    vocab: dict[str, int] = model["vocab"]
    if model["type"] == "WordPiece":
        names = sorted(vocab, key=lambda name: vocab[name])
        (folder / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        return
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _shared(name: str) -> Path:
    folder = require_folder(TOKENIZERS, "../shared/tokenizers is not on this machine")
    return folder / name


def qwen_json(folder: Path) -> None:
    """The published tokenizer.json of Qwen2."""
    shutil.copy(_shared("qwen2/tokenizer.json"), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END_OF_TEXT}))


def qwen_embedding_json(folder: Path) -> None:
    """The same with the end of Qwen3-Embedding's tokenizer.json."""
    saved = json.loads(_shared("qwen2/tokenizer.json").read_text())
    end = {"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            END_OF_TEXT: {"id": END_OF_TEXT, "ids": [151643], "tokens": [END_OF_TEXT]}
        },
    }
    saved["post_processor"] = {
        "type": "Sequence",
        "processors": [saved["post_processor"], template],
    }
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    keys = {"eos_token": "<|im_end|>", "pad_token": END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(keys))


def qwen_files(folder: Path) -> None:
    """Its vocabulary and merges alone; the special tokens stand in the config."""
    saved = json.loads(_shared("qwen2/tokenizer.json").read_text())
    _unpack(saved, folder)
    listed = {str(token.pop("id")): token for token in saved["added_tokens"]}
    keys = {"added_tokens_decoder": listed, "eos_token": END_OF_TEXT, "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(keys))


def mistral_pieces(folder: Path) -> None:
    """The published SentencePiece file of Mistral 7B."""
    require("sentencepiece", "transformers reads SentencePiece files with sentencepiece")
    shutil.copy(_shared("mistral/tokenizer.model.v1"), folder / "tokenizer.model")


def mistral_json(model_type: str, **config: Any) -> Callable[[Path], None]:
    """The tokenizer.json that transformers makes of it, under a class of its choice."""

    def save(folder: Path) -> None:
        transformers = require("transformers", "the reference needs transformers")
        mistral_pieces(folder)
        keys = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}
        TokenizerFolder(model_type=model_type, save=lambda _: None, config={**keys, **config}).make(
            folder
        )
        made = transformers.AutoTokenizer.from_pretrained(folder)
        (folder / "tokenizer.model").unlink()
        made.save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps(keys))

    return save


def trained_pieces(name: str, *, vocab_size: int = 220, **options: Any) -> Callable[[Path], None]:
    """A small SentencePiece file, trained with `options`, under the name `name`."""

    def save(folder: Path) -> None:
        trainer = require("sentencepiece", "sentencepiece trains a small vocabulary")
        content = io.BytesIO()
        trainer.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=content,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
        (folder / name).write_bytes(content.getvalue())

    return save


_FLAGS = {"add_bos_token": True, "add_eos_token": True}
_GEMMA: Mapping[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "vocab_size": 700,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "pad_piece": "<pad>",
    "eos_piece": "<eos>",
    "bos_piece": "<bos>",
    "unk_piece": "<unk>",
    "user_defined_symbols": ["<mask>", "<start_of_turn>", "\t"],
}

FOLDERS: Mapping[str, TokenizerFolder] = {
    **{
        f"{family}, tokenizer.json": TokenizerFolder(
            model_type=family, save=saved_by_transformers(family)
        )
        for family in (
            *("bert", "electra", "distilbert", "mpnet", "roberta", "xlm-roberta", "camembert"),
            *("qwen2", "qwen3", "llama", "mistral", "gemma2"),
        )
    },
    **{
        f"{family}, vocabulary": TokenizerFolder(model_type=family, save=vocabulary_of(family))
        for family in ("bert", "electra", "distilbert", "mpnet", "roberta")
    },
    "bert, cased vocabulary": TokenizerFolder(
        model_type="bert", save=vocabulary_of("bert"), config={"do_lower_case": False}
    ),
    "roberta, prefixed vocabulary": TokenizerFolder(
        model_type="roberta", save=vocabulary_of("roberta"), config={"add_prefix_space": True}
    ),
    "xlm-roberta, SentencePiece": TokenizerFolder(
        model_type="xlm-roberta", save=trained_pieces("sentencepiece.bpe.model")
    ),
    "camembert, SentencePiece": TokenizerFolder(
        model_type="camembert", save=trained_pieces("sentencepiece.bpe.model")
    ),
    "xlm-roberta in bert, SentencePiece": TokenizerFolder(
        model_type="bert",
        save=trained_pieces("sentencepiece.bpe.model", normalization_rule_name="nfkc_cf"),
        config={"tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": False},
    ),
    "xlm-roberta, tokenizer.json without prefix": TokenizerFolder(
        model_type="xlm-roberta",
        save=saved_by_transformers("xlm-roberta"),
        config={"add_prefix_space": False},
    ),
    "camembert, tokenizer.json without prefix": TokenizerFolder(
        model_type="camembert",
        save=saved_by_transformers("camembert"),
        config={"add_prefix_space": False},
    ),
    "gemma2, SentencePiece": TokenizerFolder(
        model_type="gemma2", save=trained_pieces("tokenizer.model", **_GEMMA), config=_FLAGS
    ),
    "qwen2, published": TokenizerFolder(model_type="qwen2", save=qwen_json),
    "qwen3, published, as an embedder": TokenizerFolder(
        model_type="qwen3", save=qwen_embedding_json, config={"add_bos_token": False}
    ),
    "qwen3, vocabulary": TokenizerFolder(model_type="qwen3", save=qwen_files),
    "mistral, SentencePiece": TokenizerFolder(model_type="mistral", save=mistral_pieces),
    "mistral, SentencePiece, both ends": TokenizerFolder(
        model_type="mistral",
        save=mistral_pieces,
        config={"tokenizer_class": "LlamaTokenizer", **_FLAGS},
    ),
    "llama, SentencePiece": TokenizerFolder(
        model_type="llama",
        save=mistral_pieces,
        config={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
    ),
    "llama, SentencePiece, legacy": TokenizerFolder(
        model_type="llama",
        save=mistral_pieces,
        config={"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "add_eos_token": True},
    ),
    "mistral, JSON of Llama's class": TokenizerFolder(
        model_type="mistral", save=mistral_json("llama", legacy=True, add_bos_token=True)
    ),
    "llama, JSON of no class": TokenizerFolder(
        model_type="llama", save=mistral_json("mistral", add_bos_token=True)
    ),
}
"""All of them; those of `../shared` and of sentencepiece are skipped where these are absent."""

BIG: Sequence[str] = (
    "bert, vocabulary",
    "roberta, vocabulary",
    "xlm-roberta, SentencePiece",
    "camembert, SentencePiece",
    "gemma2, SentencePiece",
    "qwen2, published",
    "qwen3, vocabulary",
    "mistral, SentencePiece, both ends",
    "llama, SentencePiece",
)
"""Those that get texts of a megabyte, and ten times as many random ones as the others."""
