"""Small tokenizers of the kinds that decoders use: byte-level BPE, and SentencePiece's BPE.

As the published embedding models have them, they end a text with a token of their own: last-token
pooling reads the hidden state of that token.
"""

import json
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, Qwen2Tokenizer

SIZE = 340
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
END_OF_TEXT = "<|endoftext|>"

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def decoder_tokenizer(family: str, corpus: tuple[str, ...], **config: Any) -> Any:
    """The tokenizer of one family, as transformers' own class.

    Args:
        family: `model_type` of the model it is for.
        corpus: texts to learn pieces from.
        config: `ends` is whether every text gets an end token, and a beginning one where the kind
            has one; the rest are keys of `tokenizer_config.json`.
    """
    ends = config.pop("ends", True)
    config.setdefault("padding_side", "right")
    if family in ("qwen2", "qwen3"):
        return _qwen(corpus, ends=ends, **config)
    kind = GemmaTokenizer if family == "gemma2" else LlamaTokenizer
    config.setdefault("pad_token", "<pad>")
    vocab, pairs = _sentence_pieces(family, corpus)
    merges: Any = pairs  # declared as text, used as pairs
    return kind(vocab=vocab, merges=merges, add_bos_token=ends, add_eos_token=ends, **config)


def is_decoder_family(family: str) -> bool:
    """Whether `decoder_tokenizer` knows it."""
    return family in ("qwen2", "qwen3", "mistral", "llama", "gemma2")


def _qwen(corpus: tuple[str, ...], *, ends: bool, **config: Any) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, pairs = _learn(tokenizer, corpus, SIZE, alphabet)
    merges: Any = pairs  # declared as text, used as pairs
    vocab[END_OF_TEXT] = len(vocab)
    made: Any = Qwen2Tokenizer(vocab=vocab, merges=merges, pad_token=END_OF_TEXT, **config)
    if ends:  # as Qwen3-Embedding's tokenizer.json has it; plain Qwen adds nothing
        made._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END_OF_TEXT}",
            pair=f"$A $B {END_OF_TEXT}",
            special_tokens=[(END_OF_TEXT, vocab[END_OF_TEXT])],
        )
    return made


def _sentence_pieces(
    family: str, corpus: tuple[str, ...]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Special tokens, all bytes to fall back on, then pieces, as a converted SentencePiece has."""
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    if family == "gemma2":
        specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    # A blank begins a piece, and no piece goes beyond the word.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{BLANK}?[^{BLANK}]+"), "isolated")
    marked = tuple(BLANK + text.replace(" ", BLANK) for text in corpus)
    pieces, merges = _learn(tokenizer, marked, SIZE, [BLANK])
    names = [*specials, *_BYTES, *sorted(pieces, key=lambda piece: pieces[piece])]
    return {name: index for index, name in enumerate(names)}, merges


def _learn(
    tokenizer: Tokenizer, corpus: tuple[str, ...], size: int, alphabet: list[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    return dict(tokenizer.get_vocab()), merges
