"""A folder's tokenizer files as transformers 5 reads them.

`tokenizer.json` is nearly the whole truth. But for the classes that it knows, transformers builds
the normalizer and the pre-tokenizer anew from `tokenizer_config.json`, whatever tokenizer.json
says; a folder in which the two disagree gives the vectors of the former. Source: the classes'
constructors in transformers 5 (`models/{bert,distilbert,mpnet,roberta}/tokenization_*.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers, pre_tokenizers

from fledge.engine.modules import read_json
from fledge.errors import CorruptModel
from fledge.types import TruncationSide

CLASSES = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "BertTokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
}
"""The class of a model type whose folder names none."""

WORD_PIECE_CLASSES = {"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer"}
BYTE_LEVEL_CLASSES = {"RobertaTokenizer"}


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a folder says of its tokenizer.

    Attributes:
        tokenizer: ready to encode, without padding or truncation of its own.
        truncation_side: the side that is cut unless somebody says otherwise.
    """

    tokenizer: tokenizers.Tokenizer
    truncation_side: TruncationSide


def read_tokenizer(folder: Path, *, model_type: str, do_lower_case: bool) -> TokenizerFiles:
    """Read `tokenizer.json` and `tokenizer_config.json`.

    Args:
        do_lower_case: sentence-transformers' own switch: lower-case before everything else.

    Raises:
        CorruptModel: a file is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CorruptModel(f"{folder} has no tokenizer.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CorruptModel(f"{path}: not a readable tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = read_json(folder / "tokenizer_config.json")
    _apply_class(tokenizer, model_type, config)
    if do_lower_case:
        _lower_case(tokenizer)
    side: TruncationSide = "left" if config.get("truncation_side") == "left" else "right"
    return TokenizerFiles(tokenizer, side)


def _apply_class(
    tokenizer: tokenizers.Tokenizer, model_type: str, config: Mapping[str, Any]
) -> None:
    name = str(config.get("tokenizer_class") or CLASSES.get(model_type, "")).removesuffix("Fast")
    strip_accents = config.get("strip_accents")  # null: whenever texts are lower-cased
    if name in WORD_PIECE_CLASSES and isinstance(tokenizer.model, tokenizers.models.WordPiece):
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=_switch(config, "tokenize_chinese_chars", default=True),
            strip_accents=None if strip_accents is None else bool(strip_accents),
            lowercase=_switch(config, "do_lower_case", default=True),
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif name in BYTE_LEVEL_CLASSES and isinstance(tokenizer.model, tokenizers.models.BPE):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=_switch(config, "add_prefix_space", default=False)
        )


def _switch(config: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = config.get(name)
    return default if value is None else bool(value)


def _lower_case(tokenizer: tokenizers.Tokenizer) -> None:
    """Lower-case before everything else, unless the normalizer itself does so already."""
    state = json.loads(tokenizer.to_str())["normalizer"] or {}
    if any(one.get("type") == "Lowercase" for one in (state, *state.get("normalizers", ()))):
        return
    own = tokenizer.normalizer
    steps = [normalizers.Lowercase()] if own is None else [normalizers.Lowercase(), own]
    tokenizer.normalizer = normalizers.Sequence(steps)
