"""Texts that take a model through its corners: lengths from nothing to too much, and scripts."""

_LINE = "the weather is lovely today and he drove to the stadium; another text gives a vector"

TEXTS = (
    "a",
    "hello",
    " \t\n",  # nothing but white space: only the special tokens are left
    "The weather is lovely today.",
    "It's so sunny outside!",
    "  leading and trailing   and inner   space ",
    "He drove to the stadium, and then - slowly - home again.",
    "Ein kurzer Satz über Füße, Größe und ÄPFEL.",
    "naïve café, déjà vu; cafe\u0301 with a combining accent",
    "Съешь же ещё этих мягких французских булок",
    "天地玄黄 宇宙洪荒。日月盈昃",
    "\U0001f469\u200d\U0001f467 \U0001f680 and \u2211 x\u00b2 \u2265 0",
    "\u0130stanbul \u01c5 \u00df \ufb01 \uff26\uff35\uff2c\uff2c",  # lower-casing has corners here
    "zero\u200bwidth no\u00a0break \x00 nul \x07 bell \ufffd \ufeff mark",
    "0123456789 " * 3,
    _LINE[:40],
    _LINE,
    " ".join(_LINE.split() * 4),
    " ".join([_LINE] * 30),
    "word " * 3000,
    "unbroken" * 400,
)

SPECIAL_TOKENS_IN_TEXT = (
    "a [SEP] b [PAD] c [MASK] d [CLS] e",
    "a <pad> b </s> c <mask> d <s> e",
    "<pad>",
    "[PAD] [PAD] tail",
    "a <eos> b <bos> c <unk> d <|endoftext|> e",
)
"""Texts that spell special tokens: tokenizers take them for the tokens themselves."""
