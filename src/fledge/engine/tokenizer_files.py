"""A folder's tokenizer files as transformers 5 reads them.

`tokenizer.json` where there is one, or else the vocabulary files of the folder's tokenizer class.
How each class is built is in `tokenizer_classes`, what its special tokens are in `special_tokens`.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers, processors

from fledge.engine.modules import read_json
from fledge.engine.sentencepiece_model import (
    Algorithm,
    PieceKind,
    SentencePieceModel,
    merges_of,
    read_sentencepiece,
)
from fledge.engine.special_tokens import Defaults, SpecialTokens, read_special_tokens
from fledge.engine.tokenizer_classes import (
    BLANK,
    CLASSES,
    IN_PYTHON,
    PLAIN,
    NamedToken,
    Settings,
    TokenizerClass,
    find_class,
    heeds_ends,
    template,
)
from fledge.errors import CorruptModel, ModelLoadError, UnsupportedModel
from fledge.types import TruncationSide

SENTENCEPIECE_FILES = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model")

NEW_WORDS_VOCAB = 100_000
"""Only beyond so many tokens does transformers 5 heed `fix_mistral_regex`."""

PROBE = "".join(map(chr, range(0x3100))) + "\uff21\U000f4240"
"""Characters of many scripts, and one of none: what garbled files do to a text is seen at once."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a folder says of its tokenizer.

    Attributes:
        tokenizer: ready to encode, without padding or truncation of its own.
        truncation_side: the side that is cut unless somebody says otherwise.
    """

    tokenizer: tokenizers.Tokenizer
    truncation_side: TruncationSide


@dataclass(frozen=True, slots=True)
class _Source:
    """A tokenizer with its vocabulary and perhaps no more, and what its files say beside it."""

    tokenizer: tokenizers.Tokenizer
    charsmap: bytes | None = None
    listed: Mapping[int, AddedToken] | None = None
    pieces: SentencePieceModel | None = None


@dataclass(frozen=True, slots=True)
class _Class:
    """Which class the folder gets.

    Attributes:
        name: as `find_class` has it.
        kind: how it is built, if Fledge knows.
        heeds_ends: `add_bos_token` and `add_eos_token` count also beside a `tokenizer.json`.
    """

    name: str
    kind: TokenizerClass | None
    heeds_ends: bool


def read_tokenizer(folder: Path, *, model_type: str, do_lower_case: bool) -> TokenizerFiles:
    """Read a folder's tokenizer.

    Args:
        do_lower_case: sentence-transformers' own switch: lower-case before everything else.

    Raises:
        CorruptModel: a file is missing or damaged.
        UnsupportedModel: a tokenizer class that Fledge has no code for, a SentencePiece file of a
            kind that transformers does not read either, or a `fix_mistral_regex` to be applied.
    """
    config = read_json(folder / "tokenizer_config.json")
    found = _find(folder, model_type, config)
    try:
        path = folder / "tokenizer.json"
        loaded = tokenizers.Tokenizer.from_file(str(path)) if path.is_file() else None
        own = None if loaded is None else loaded.truncation
        tokenizer = _build(folder, found, config, loaded)
        if model_type == "mistral" and config.get("fix_mistral_regex"):
            _refuse_new_words(folder, tokenizer)
        if do_lower_case:
            _lower_case(tokenizer)
        tokenizer.encode(PROBE)
    except (ModelLoadError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and a panic is not even one
        raise CorruptModel(
            f"{folder}: its tokenizer files (tokenizer.json, if there is one) "
            f"give no working tokenizer: {error}"
        ) from error
    wanted = config.get("truncation_side", own["direction"] if own else None)
    side: TruncationSide = "left" if wanted == "left" else "right"
    return TokenizerFiles(tokenizer, side)


def _find(folder: Path, model_type: str, config: Mapping[str, Any]) -> _Class:
    path = folder / "tokenizer.json"
    declared = config.get("tokenizer_class") or read_json(folder / "config.json").get(
        "tokenizer_class"
    )
    name = declared if isinstance(declared, str) else None
    code = config.get("auto_map")
    has_code = bool(code.get("AutoTokenizer") if isinstance(code, dict) else code)
    could_be_byte_level = name is not None and name.removesuffix("Fast") == "LlamaTokenizer"
    found = find_class(
        model_type,
        name,
        has_code=has_code,
        is_byte_level=could_be_byte_level
        and path.is_file()
        and b'"ByteLevel"' in path.read_bytes(),
    )
    if found in IN_PYTHON:
        raise UnsupportedModel(
            f"{folder}: its tokenizer_class is {found}, which does more than a tokenizer.json can "
            "say; Fledge has no such class, and its ids would be others: choose another model"
        )
    return _Class(found, CLASSES.get(found), heeds_ends(model_type, name, has_code=has_code))


def _refuse_new_words(folder: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """Refuse a large vocabulary that transformers 5 did not save, and so would divide anew."""
    version = read_json(folder / "config.json").get("transformers_version")
    major = version.partition(".")[0] if isinstance(version, str) else ""
    is_fixed = major.isdecimal() and int(major) >= 5
    if not is_fixed and tokenizer.get_vocab_size() > NEW_WORDS_VOCAB:
        raise UnsupportedModel(
            f"{folder}: tokenizer_config.json sets fix_mistral_regex, which Fledge does not apply: "
            "load the tokenizer with transformers 5 and save it and its model again"
        )


def _build(
    folder: Path, found: _Class, config: Mapping[str, Any], loaded: tokenizers.Tokenizer | None
) -> tokenizers.Tokenizer:
    kind, keeps_pipeline = found.kind, False
    if loaded is not None:
        loaded.no_padding()
        loaded.no_truncation()
        if kind is not None and not isinstance(loaded.model, kind.algorithm):
            kind = None
        keeps_pipeline = kind is None or kind.keeps_json
        source = _Source(loaded) if keeps_pipeline else _without_pipeline(loaded)
    else:
        source = _from_vocabulary(folder, found, config)
    tokenizer = source.tokenizer
    tokens = read_special_tokens(folder, config, _defaults(kind, source), source.listed or {})
    tokens.add_to(tokenizer)
    if kind is not None:
        unknown = tokens.named.get("unk_token")
        settings = Settings(config, unknown.content if unknown else "", source.charsmap)
        if not keeps_pipeline:
            kind.set_up(tokenizer, settings)
        if kind.surround is not None:
            tokenizer.post_processor = kind.surround(_finder(tokenizer, tokens), settings)
            return tokenizer
    if loaded is None or found.heeds_ends:
        _add_beginning_and_end(tokenizer, tokens, config)
    return tokenizer


def _without_pipeline(loaded: tokenizers.Tokenizer) -> _Source:
    """What the known classes take from a `tokenizer.json`; the rest is built anew."""
    tokenizer = tokenizers.Tokenizer(loaded.model)
    if loaded.post_processor is not None:
        tokenizer.post_processor = loaded.post_processor
    charsmap = next(
        (
            base64.b64decode(step["precompiled_charsmap"])
            for step in _steps(loaded)
            if step.get("type") == "Precompiled" and "precompiled_charsmap" in step
        ),
        None,
    )
    return _Source(tokenizer, charsmap, loaded.get_added_tokens_decoder())


def _steps(tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The steps of the normalizer as `tokenizer.json` has them."""
    if tokenizer.normalizer is None:
        return []
    state = json.loads(tokenizer.normalizer.__getstate__())
    return list(state["normalizers"]) if state.get("type") == "Sequence" else [state]


def _from_vocabulary(folder: Path, found: _Class, config: Mapping[str, Any]) -> _Source:
    kind = found.kind
    if kind is None and found.name != PLAIN:
        raise UnsupportedModel(
            f"{folder} has no tokenizer.json, and its tokenizer_class is {found.name}, which "
            "Fledge cannot build from vocabulary files: save it again with transformers 5, which "
            "writes a tokenizer.json"
        )
    if kind is None or kind.files == "sentencepiece":
        for name in SENTENCEPIECE_FILES:
            if (folder / name).is_file():
                pieces = read_sentencepiece(folder / name)
                if kind is None:
                    return _plain_pieces(pieces, config)
                return _pieces_of_class(folder / name, pieces, kind, config)
        raise _missing(folder, " or ".join(SENTENCEPIECE_FILES))
    vocab, merges = folder / kind.files, folder / "merges.txt"
    if kind.files == "vocab.txt":
        if not vocab.is_file():
            raise _missing(folder, "vocab.txt")
        return _Source(tokenizers.Tokenizer(models.WordPiece.from_file(str(vocab))))
    if not (vocab.is_file() and merges.is_file()):
        raise _missing(folder, "vocab.json with merges.txt")
    if not all(isinstance(index, int) for index in read_json(vocab).values()):
        raise CorruptModel(f"{vocab}: every token needs an id, which is a number")
    return _Source(tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges))))


def _missing(folder: Path, files: str) -> CorruptModel:
    return CorruptModel(f"{folder} has neither tokenizer.json nor {files}")


def _pieces_of_class(
    path: Path, pieces: SentencePieceModel, kind: TokenizerClass, config: Mapping[str, Any]
) -> _Source:
    """A known class takes the pieces alone, and does the rest in its own way."""
    wanted = Algorithm.UNIGRAM if kind.algorithm is models.Unigram else Algorithm.BPE
    if pieces.algorithm is not wanted:
        raise UnsupportedModel(
            f"{path}: its algorithm is {pieces.algorithm.name}, and the folder's tokenizer class "
            f"works with {wanted.name}"
        )
    if wanted is Algorithm.BPE:
        model: models.Model = models.BPE(*merges_of(pieces.pieces))
        return _Source(tokenizers.Tokenizer(model), pieces=pieces)
    named = {name: _text(config.get(name), text) for name, text in kind.tokens.items()}
    scored = [(piece.text, piece.score) for piece in pieces.pieces]
    mask, unknown, pad = (named[name] for name in ("mask_token", "unk_token", "pad_token"))
    if kind.fairseq == "camembert":
        head = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unknown, 0.0)]
        scored = [*head, ("<unk>NOTUSED", -100.0), *scored[1:], (mask, 0.0)]
    else:
        begin, end = named["bos_token"], named["eos_token"]
        head = [(begin, 0.0), (pad, 0.0), (end, 0.0), (unknown, 0.0)]
        scored = [*head, *scored[3:], (mask, 0.0)]
    model = models.Unigram(scored, unk_id=3, byte_fallback=False)
    return _Source(tokenizers.Tokenizer(model), charsmap=pieces.charsmap, pieces=pieces)


def _plain_pieces(pieces: SentencePieceModel, config: Mapping[str, Any]) -> _Source:
    """Without a known class, transformers puts no blank before a text, whatever the file says."""
    unknown = pieces.tokens.get("unk_token", "<unk>")
    if pieces.algorithm is Algorithm.UNIGRAM:
        scored = [(piece.text, piece.score) for piece in pieces.pieces]
        model: models.Model = models.Unigram(
            scored, unk_id=pieces.unk_id, byte_fallback=pieces.byte_fallback
        )
    elif pieces.algorithm is Algorithm.BPE:
        vocab, merges = merges_of(pieces.pieces)
        _rename(vocab, config)
        model = models.BPE(
            vocab,
            merges,
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=pieces.byte_fallback,
        )
    else:
        raise UnsupportedModel(
            f"a SentencePiece model of the algorithm {pieces.algorithm.name}; "
            "Fledge reads BPE and UNIGRAM"
        )
    tokenizer = tokenizers.Tokenizer(model)
    steps: list[Any] = [normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", BLANK)])
    return _Source(tokenizer, pieces=pieces)


def _rename(vocab: dict[str, int], config: Mapping[str, Any]) -> None:
    """Give placeholders of the file the names that `added_tokens_decoder` has for their ids."""
    texts = {index: text for text, index in vocab.items()}
    listed = config.get("added_tokens_decoder")
    for index, token in listed.items() if isinstance(listed, dict) else ():
        old, new = texts.get(int(index)), _text(token, "")
        if old and new and new not in vocab:
            vocab[new] = vocab.pop(old)


def _text(token: Any, default: str) -> str:
    """The text of a token that a config writes as a text or as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else default


def _defaults(kind: TokenizerClass | None, source: _Source) -> Defaults:
    named = kind.tokens if kind else {}
    extra = [AddedToken(text, special=True) for text in kind.extra] if kind else []
    if source.pieces is not None:
        named = named or source.pieces.tokens
        extra = [
            AddedToken(piece.text, normalized=False, special=piece.kind == PieceKind.CONTROL)
            for piece in source.pieces.pieces
            if piece.kind in (PieceKind.CONTROL, PieceKind.USER_DEFINED)
        ]
    return Defaults(named, extra, strips_before_mask=kind is not None and kind.strips_before_mask)


def _finder(tokenizer: tokenizers.Tokenizer, tokens: SpecialTokens) -> NamedToken:
    def find(name: str) -> tuple[str, int]:
        token = tokens.named.get(name)
        index = None if token is None else tokenizer.token_to_id(token.content)
        if token is None or index is None:
            raise CorruptModel(
                f"every text needs the tokenizer's {name}, but "
                + (
                    "none is named"
                    if token is None
                    else f"{token.content!r} is not in its vocabulary"
                )
            )
        return token.content, index

    return find


def _add_beginning_and_end(
    tokenizer: tokenizers.Tokenizer, tokens: SpecialTokens, config: Mapping[str, Any]
) -> None:
    """Add what `add_bos_token` and `add_eos_token` ask for and tokenizer.json does not.

    Here transformers 5 does less than 4 did: beside a tokenizer.json it ignores both keys; 4 heeded
    them for the classes of Llama and Gemma, and so does code of a folder's own. Models such as
    intfloat/e5-mistral-7b-instruct, whose tokenizer.json adds no end token, were trained and
    published with the one that their config asks for: see pull request 5237 of
    embeddings-benchmark/mteb.
    """
    find = _finder(tokenizer, tokens)
    wanted = [
        [find(name)] if config.get(key) is True and name in tokens.named else []
        for key, name in (("add_bos_token", "bos_token"), ("add_eos_token", "eos_token"))
    ]
    before, after = _surroundings(tokenizer)
    begin, end = (
        [token for token in asked if token not in present]
        for asked, present in zip(wanted, (before, after), strict=True)
    )
    if begin or end:
        own = tokenizer.post_processor
        around = template([*begin, *before], [*after, *end])
        # behind one that adds tokens itself, a second one would be ignored
        alone = own is None or before or after
        tokenizer.post_processor = around if alone else processors.Sequence([own, around])


def _surroundings(
    tokenizer: tokenizers.Tokenizer,
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The special tokens before and behind a text, with their ids."""
    seen = tokenizer.encode("a")
    mask, tokens = seen.special_tokens_mask, list(zip(seen.tokens, seen.ids, strict=True))
    if 0 not in mask:
        return [], tokens
    return tokens[: mask.index(0)], tokens[len(tokens) - mask[::-1].index(0) :]


def _lower_case(tokenizer: tokenizers.Tokenizer) -> None:
    """Lower-case before everything else, unless the normalizer itself does so already."""
    if any(step.get("type") == "Lowercase" for step in _steps(tokenizer)):
        return
    own = tokenizer.normalizer
    steps = [normalizers.Lowercase()] if own is None else [normalizers.Lowercase(), own]
    tokenizer.normalizer = normalizers.Sequence(steps)
