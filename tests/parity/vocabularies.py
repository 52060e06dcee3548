"""Small tokenizers: WordPiece, byte-level BPE and Unigram here, decoders' in a file of their own.

300 to 400 pieces each, the same in every run, and saved by transformers' own tokenizer classes, so
`tokenizer.json` and `tokenizer_config.json` look as they do in a model's folder.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    CamembertTokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from tests.parity.decoder_vocabularies import decoder_tokenizer, is_decoder_family

CORPUS = (
    "The weather is lovely today. It's so sunny outside! He drove to the stadium.",
    "A small model reads a short text and gives one vector; another text gives another vector.",
    "Der schnelle braune Fuchs springt über den faulen Hund. Füße, Größe, Äpfel, Öl.",
    "Le café est fermé aujourd'hui, déjà vu, garçon, où êtes-vous ? Ça va très bien.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "天地玄黄 宇宙洪荒 日月盈昃 辰宿列張",
    "query: passage: search documents for the question 0 1 2 3 4 5 6 7 8 9 . , ; : ! ? ' - ( )",
)
SIZE = 300

_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


def save_tokenizer(
    folder: Path,
    family: str,
    *,
    max_length: int | None,
    lowercase: bool = True,
    pad_id: int = 1,
    **config: Any,
) -> int:
    """Write the tokenizer of one family into `folder`.

    Args:
        folder: where; it exists.
        family: `model_type` of the model it is for.
        max_length: `model_max_length`; None leaves it out.
        lowercase: whether the WordPiece kinds lower the case.
        pad_id: where the byte-level BPE keeps its `<pad>`.
        config: further keys of `tokenizer_config.json`.

    Returns:
        The number of ids, special tokens included.
    """
    if max_length is not None:
        config["model_max_length"] = max_length
    tokenizer: Any
    if family in ("bert", "electra", "distilbert"):
        kind = DistilBertTokenizer if family == "distilbert" else BertTokenizer
        vocab = _wordpiece(_BERT_SPECIALS, lowercase=lowercase)
        tokenizer = kind(vocab=vocab, do_lower_case=lowercase, **config)
    elif family == "mpnet":
        specials = (*_ROBERTA_SPECIALS[:3], "[UNK]", "<mask>")
        tokenizer = MPNetTokenizer(
            vocab=_wordpiece(specials, lowercase=lowercase), do_lower_case=lowercase, **config
        )
    elif family == "roberta":
        vocab, merges = _byte_pairs(pad_id)
        pairs: Any = merges  # declared as text, used as pairs
        tokenizer = RobertaTokenizer(vocab=vocab, merges=pairs, **config)
    elif family == "xlm-roberta":
        pieces = [(special, 0.0) for special in _ROBERTA_SPECIALS]
        tokenizer = XLMRobertaTokenizer(vocab=[*pieces, *_unigrams(), ("<mask>", 0.0)], **config)
    elif family == "camembert":
        tokenizer = CamembertTokenizer(vocab=_camembert_pieces(), **config)
    elif is_decoder_family(family):
        tokenizer = decoder_tokenizer(family, CORPUS, **config)
    else:
        raise ValueError(f"no tokenizer for the family {family!r}")
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _wordpiece(specials: tuple[str, ...], *, lowercase: bool) -> dict[str, int]:
    """Every character at both places, and the commonest word beginnings.

    Not trained: that library's WordPiece trainer gives another vocabulary in each run.
    """
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    split = pre_tokenizers.BertPreTokenizer()
    text = normalizer.normalize_str(" ".join(CORPUS))
    words = [word for word, _ in split.pre_tokenize_str(text)]
    singles = sorted(set("".join(words)))
    pieces = [*singles, *(f"##{single}" for single in singles)]
    counts = Counter(word[:end] for word in words for end in range(2, len(word) + 1))
    counts.update(f"##{word[-2:]}" for word in words if len(word) > 3)
    longer = sorted(counts, key=lambda piece: (-counts[piece], piece))
    names = [*specials, *pieces, *longer]
    return {piece: index for index, piece in enumerate(names[: SIZE + 100])}


def _byte_pairs(pad_id: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE + 40, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    pieces = sorted(tokenizer.get_vocab(), key=lambda piece: tokenizer.token_to_id(piece) or 0)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    specials = [special for special in _ROBERTA_SPECIALS if special != "<pad>"]
    specials.insert(pad_id, "<pad>")
    names = [*specials, *pieces, "<mask>"]
    return {piece: index for index, piece in enumerate(names)}, merges


def _unigrams() -> list[tuple[str, float]]:
    """Every character, and the commonest word beginnings, each with the log of its frequency."""
    counts: Counter[str] = Counter()
    for word in " ".join(CORPUS).split():
        marked = f"\N{LOWER ONE EIGHTH BLOCK}{word}"
        counts.update(marked)
        counts.update(marked[:end] for end in range(2, len(marked) + 1))
    singles = sorted(piece for piece in counts if len(piece) == 1)
    longer = sorted(
        (piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece)
    )
    chosen = [*singles, *longer[: SIZE - len(singles)]]
    total = sum(counts[piece] for piece in chosen)
    return [(piece, math.log(counts[piece] / total)) for piece in chosen]


def _camembert_pieces() -> list[tuple[str, float]]:
    """As the published one: four ids that nothing uses, then SentencePiece's own `<s>`, `</s>`."""
    head = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0)]
    return [
        *head,
        ("<unk>NOTUSED", -100.0),
        ("<s>", 0.0),
        ("</s>", 0.0),
        *_unigrams(),
        ("<mask>", 0.0),
    ]
