"""How transformers 5 builds a tokenizer of each class that it knows.

For these classes `tokenizer.json` is not the whole truth: its vocabulary and merges are taken, but
the normalizer, the pre-tokenizer, the model's switches and, for some, the special tokens around a
text are built anew from `tokenizer_config.json`. A folder in which the two disagree gives the
vectors of the latter. Sources: the constructors in `models/*/tokenization_*.py` of transformers 5,
and `AutoTokenizer.from_pretrained` for which class a folder gets.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

PLAIN = "TokenizersBackend"
"""The class that takes `tokenizer.json` as it is."""

REGISTERED = {
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "gemma2": "GemmaTokenizer",
    "mistral": PLAIN,
    "modernbert": PLAIN,
    "mpnet": "MPNetTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
"""The class of a model type whose folder names none."""

WRONGLY_DECLARED = {"modernbert", "qwen2"}
"""Model types whose folders name a wrong class so often that the registered one wins."""

ALIASES = {
    **dict.fromkeys(("PreTrainedTokenizer", "PythonBackend", "BloomTokenizer"), PLAIN),
    **dict.fromkeys(
        (
            *("DistilBertTokenizer", "ElectraTokenizer", "LayoutLMTokenizer", "LxmertTokenizer"),
            *("MobileBertTokenizer", "SqueezeBertTokenizer"),
        ),
        "BertTokenizer",
    ),
    **dict.fromkeys(
        ("BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"),
        "RobertaTokenizer",
    ),
    "Phi3Tokenizer": "LlamaTokenizer",
}
"""Names under which transformers 5 has another class, by itself or by `SLOW_TO_FAST_CONVERTERS`."""

IN_PYTHON = frozenset(
    f"{name}Tokenizer"
    for name in (
        *("Bartpho", "BertGeneration", "BertJapanese", "Bertweet", "BioGpt", "BlenderbotSmall"),
        *("ByT5", "Canine", "Clvp", "Cpm", "CpmAnt", "CTRL", "Dia", "Esm", "Flaubert", "FSMT"),
        *("GPTNeoXJapanese", "GPTSw3", "LayoutXLM", "M2M100", "Marian", "Mgpstr", "MyT5"),
        *("Perceiver", "Phobert", "PLBart", "ProphetNet", "RoCBert", "RoFormer", "Siglip"),
        *("Speech2Text", "SpeechT5", "Tapas", "Vits", "Wav2Vec2CTC", "XLM"),
    )
)
"""Classes of transformers 5 that do more than a tokenizer.json can say, or do not read it."""

_WITH_ENDS = {"GemmaTokenizer", "LlamaTokenizer"}

BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's word boundary."""

_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

NamedToken = Callable[[str], tuple[str, int]]
"""From `bos_token` and the like to the token's text and id."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a class is built from beside its vocabulary.

    Attributes:
        config: `tokenizer_config.json`.
        unknown: text of the unknown token.
        charsmap: SentencePiece's compiled normalization; None where there is none.
    """

    config: Mapping[str, Any]
    unknown: str
    charsmap: bytes | None

    def switch(self, name: str, *, default: bool) -> bool:
        """A key of the config; null means the default."""
        value = self.config.get(name)
        return default if value is None else bool(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerClass:
    """One class.

    Attributes:
        algorithm: the kind of model that it works with.
        files: the vocabulary files that it can be built from without a `tokenizer.json`.
        tokens: its special tokens, unless the folder names others.
        set_up: gives a tokenizer its model's switches, its normalizer and its pre-tokenizer.
        surround: makes the special tokens around every text, whatever tokenizer.json says; None
            leaves them to tokenizer.json and to `add_bos_token` and `add_eos_token`.
        fairseq: how the ids of a SentencePiece file are moved to make room for fairseq's own.
        extra: further special tokens, unless the folder names some.
        strips_before_mask: the mask token takes the white space before it.
        keeps_json: the pipeline of a tokenizer.json is taken as it is, all but what surrounds a
            text: so with classes that have no constructor of their own.
    """

    algorithm: type[models.Model]
    files: Literal["vocab.txt", "vocab.json", "sentencepiece"]
    tokens: Mapping[str, str]
    set_up: Callable[[Tokenizer, Settings], None]
    surround: Callable[[NamedToken, Settings], processors.PostProcessor] | None = None
    fairseq: Literal["xlm-roberta", "camembert"] | None = None
    extra: tuple[str, ...] = ()
    strips_before_mask: bool = False
    keeps_json: bool = False


def find_class(
    model_type: str, declared: str | None, *, has_code: bool, is_byte_level: bool
) -> str:
    """The name of the class that `AutoTokenizer` takes, without a trailing `Fast`.

    Args:
        model_type: of `config.json`.
        declared: `tokenizer_class` of `tokenizer_config.json`, or else of `config.json`.
        has_code: the folder brings a tokenizer of its own as code, which is never run.
        is_byte_level: `tokenizer.json` works on bytes.
    """
    registered = REGISTERED.get(model_type)
    name = (declared or registered or PLAIN).removesuffix("Fast")
    if has_code:
        return ALIASES.get(name, name)
    if registered is not None and (registered == PLAIN or model_type in WRONGLY_DECLARED):
        return registered
    if name == "LlamaTokenizer" and is_byte_level:
        return PLAIN
    return ALIASES.get(name, name)


def heeds_ends(model_type: str, declared: str | None, *, has_code: bool) -> bool:
    """Whether `add_bos_token` and `add_eos_token` count also beside a `tokenizer.json`.

    Args:
        model_type, declared, has_code: as for `find_class`.
    """
    name = declared or REGISTERED.get(model_type) or PLAIN
    return has_code or name.removesuffix("Fast") in _WITH_ENDS


def _word_piece(tokenizer: Tokenizer, settings: Settings) -> None:
    tokenizer.model.unk_token = settings.unknown
    tokenizer.model.continuing_subword_prefix = "##"
    tokenizer.model.max_input_chars_per_word = 100
    strip_accents = settings.config.get("strip_accents")  # null: whenever texts are lower-cased
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.switch("tokenize_chinese_chars", default=True),
        strip_accents=None if strip_accents is None else bool(strip_accents),
        lowercase=settings.switch("do_lower_case", default=True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()


def _uncased_word_piece(tokenizer: Tokenizer, settings: Settings) -> None:
    """The classes of DPR do not hand `do_lower_case` on, whose default then holds."""
    _word_piece(tokenizer, replace(settings, config={**settings.config, "do_lower_case": True}))


def _switch_bpe(
    tokenizer: Tokenizer, *, unknown: str | None, fuse_unk: bool, byte_fallback: bool
) -> None:
    model = tokenizer.model
    model.unk_token = unknown
    model.fuse_unk = fuse_unk
    model.byte_fallback = byte_fallback
    model.ignore_merges = False
    model.dropout = None


def _byte_level(tokenizer: Tokenizer, settings: Settings) -> None:
    _switch_bpe(tokenizer, unknown=None, fuse_unk=False, byte_fallback=False)
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=settings.switch("add_prefix_space", default=False)
    )


def _qwen(tokenizer: Tokenizer, settings: Settings) -> None:
    _switch_bpe(tokenizer, unknown=None, fuse_unk=False, byte_fallback=False)
    tokenizer.normalizer = normalizers.NFC()
    prefixed = settings.switch("add_prefix_space", default=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=prefixed, use_regex=False),
        ]
    )


def _llama(tokenizer: Tokenizer, settings: Settings) -> None:
    _switch_bpe(tokenizer, unknown=None, fuse_unk=True, byte_fallback=True)
    tokenizer.normalizer = None
    scheme = "never"
    if settings.switch("add_prefix_space", default=True):
        scheme = "always" if settings.switch("legacy", default=False) else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, prepend_scheme=scheme, split=False)


def _gemma(tokenizer: Tokenizer, settings: Settings) -> None:
    _switch_bpe(tokenizer, unknown=settings.unknown, fuse_unk=True, byte_fallback=True)
    tokenizer.normalizer = normalizers.Replace(" ", BLANK)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous", invert=False)


def _xlm_roberta(tokenizer: Tokenizer, settings: Settings) -> None:
    _switch_unigram(tokenizer, lambda _: 3)
    _unigram(tokenizer, settings)


def _camembert(tokenizer: Tokenizer, settings: Settings) -> None:
    unknown = settings.unknown
    _switch_unigram(tokenizer, lambda texts: texts.index(unknown) if unknown in texts else 0)
    _unigram(tokenizer, settings)


def _switch_unigram(tokenizer: Tokenizer, unk_id: Callable[[Sequence[str]], int]) -> None:
    """No falling back to bytes, no sampling, and the class's unknown token, not the file's."""
    state = json.loads(tokenizer.model.__getstate__())
    wanted = unk_id([text for text, _ in state["vocab"]])
    if state.get("byte_fallback") or state.get("alpha") or state.get("unk_id") != wanted:
        vocab = [(text, score) for text, score in state["vocab"]]
        tokenizer.model = models.Unigram(vocab, unk_id=wanted, byte_fallback=False)


def _unigram(tokenizer: Tokenizer, settings: Settings) -> None:
    charsmap = settings.charsmap
    tokenizer.normalizer = None if charsmap is None else normalizers.Precompiled(charsmap)
    prefixed = settings.switch("add_prefix_space", default=True)
    scheme = "always" if prefixed else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(BLANK, prepend_scheme=scheme, split=True),
        ]
    )


def template(before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]) -> Any:
    """Special tokens before and behind a text."""
    return processors.TemplateProcessing(
        single=[*(f"{text}:0" for text, _ in before), "$A:0", *(f"{text}:0" for text, _ in after)],
        special_tokens=[*{*before, *after}],
    )


def _between_cls_and_sep(token: NamedToken, _settings: Settings) -> Any:
    return template([token("cls_token")], [token("sep_token")])


def _between_bos_and_eos(token: NamedToken, _settings: Settings) -> Any:
    return template([token("bos_token")], [token("eos_token")])


def _as_roberta(token: NamedToken, settings: Settings) -> Any:
    return processors.RobertaProcessing(
        token("sep_token"),
        token("cls_token"),
        trim_offsets=settings.switch("trim_offsets", default=True),
        add_prefix_space=settings.switch("add_prefix_space", default=False),
    )


def _as_mpnet(token: NamedToken, _settings: Settings) -> Any:
    return processors.RobertaProcessing(
        token("sep_token"), token("cls_token"), trim_offsets=True, add_prefix_space=False
    )


_FAIRSEQ_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}

_BERT = TokenizerClass(
    algorithm=models.WordPiece,
    files="vocab.txt",
    tokens={
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    set_up=_word_piece,
    surround=_between_cls_and_sep,
)

CLASSES: Mapping[str, TokenizerClass] = {
    "BertTokenizer": _BERT,
    "ConvBertTokenizer": replace(_BERT, keeps_json=True),
    "DPRContextEncoderTokenizer": replace(_BERT, set_up=_uncased_word_piece),
    "DPRQuestionEncoderTokenizer": replace(_BERT, set_up=_uncased_word_piece),
    "MPNetTokenizer": TokenizerClass(
        algorithm=models.WordPiece,
        files="vocab.txt",
        tokens=_FAIRSEQ_TOKENS | {"unk_token": "[UNK]"},
        set_up=_word_piece,
        surround=_as_mpnet,
        strips_before_mask=True,
    ),
    "RobertaTokenizer": TokenizerClass(
        algorithm=models.BPE,
        files="vocab.json",
        tokens=_FAIRSEQ_TOKENS,
        set_up=_byte_level,
        surround=_as_roberta,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        algorithm=models.Unigram,
        files="sentencepiece",
        tokens=_FAIRSEQ_TOKENS,
        set_up=_xlm_roberta,
        surround=_between_bos_and_eos,
        fairseq="xlm-roberta",
    ),
    "CamembertTokenizer": TokenizerClass(
        algorithm=models.Unigram,
        files="sentencepiece",
        tokens=_FAIRSEQ_TOKENS,
        set_up=_camembert,
        surround=_between_bos_and_eos,
        fairseq="camembert",
        extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
        strips_before_mask=True,
    ),
    "LlamaTokenizer": TokenizerClass(
        algorithm=models.BPE,
        files="sentencepiece",
        tokens={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        set_up=_llama,
    ),
    "GemmaTokenizer": TokenizerClass(
        algorithm=models.BPE,
        files="sentencepiece",
        tokens={
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        set_up=_gemma,
    ),
    "Qwen2Tokenizer": TokenizerClass(
        algorithm=models.BPE,
        files="vocab.json",
        tokens=dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
        set_up=_qwen,
    ),
}
"""Any other class is taken as `tokenizer.json` has it."""
