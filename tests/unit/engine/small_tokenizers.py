"""Small tokenizers of the four kinds that divide a text differently."""

from typing import Any

from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tests.tiny import SPECIAL

CORPUS = ["ab abc aab bca\n cab  c", "abcabc aaa, word. ab-c (b)", "a b c bb ccc é 漢"] * 10


def trained(model: Any, trainer: Any, splitter: Any) -> RawTokenizer:
    tokenizer = RawTokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece() -> RawTokenizer:
    words = [*SPECIAL, *"abcdwor.,-()", *(f"##{letter}" for letter in "abcdwor"), "ab", "##ca"]
    model = models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = RawTokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def byte_level() -> RawTokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))


def metaspace() -> RawTokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=40, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace())


def without_words() -> RawTokenizer:
    """SentencePiece's BPE as Llama, Mistral and Gemma have it: a text is one word to the model."""
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=SPECIAL, show_progress=False)
    tokenizer = trained(models.BPE(unk_token="[UNK]"), trainer, pre_tokenizers.Metaspace())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


KINDS = {
    "WordPiece": word_piece,
    "byte level": byte_level,
    "metaspace": metaspace,
    "without words": without_words,
}
