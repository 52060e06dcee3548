"""The special and the added tokens of a folder, as transformers 5 collects them.

They are spread over up to four files. `tokenizer_config.json` wins; `special_tokens_map.json` and
`added_tokens.json` are read where it lists no `added_tokens_decoder`. Source:
`PreTrainedTokenizerBase._from_pretrained` and the constructor of `TokenizersBackend`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from fledge.engine.modules import read_json
from fledge.errors import CorruptModel

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_STANDARD_KEYS = frozenset(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
"""Those that every tokenizer may name; further ones are of a model's own."""

_LISTS = ("extra_special_tokens", "additional_special_tokens")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where the folder says nothing.

    Attributes:
        named: text of `bos_token` and the like.
        extra: further special tokens.
        strips_before_mask: the mask token takes the white space before it.
    """

    named: Mapping[str, str]
    extra: Sequence[AddedToken] = ()
    strips_before_mask: bool = False


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What the folder says.

    Attributes:
        named: by `bos_token` and the like; only those that the tokenizer has.
        extra: further ones.
        listed: tokens beside the vocabulary, special or not, by id.
    """

    named: Mapping[str, AddedToken]
    extra: Sequence[AddedToken]
    listed: Mapping[int, AddedToken]

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Make a tokenizer know them.

        A token that is named but neither listed nor in the vocabulary is left out: transformers
        would invent an id for it, which the model has no embedding for.
        """
        tokens = [self.listed[index] for index in sorted(self.listed)]
        known = {token.content for token in tokens}
        for token in (*self.named.values(), *self.extra):
            if token.content not in known and tokenizer.token_to_id(token.content) is not None:
                known.add(token.content)
                tokens.append(token)
        tokenizer.add_tokens(tokens)


def read_special_tokens(
    folder: Path,
    config: Mapping[str, Any],
    defaults: Defaults,
    listed_elsewhere: Mapping[int, AddedToken],
) -> SpecialTokens:
    """Collect them.

    Args:
        config: `tokenizer_config.json`.
        listed_elsewhere: those of `tokenizer.json`.

    Raises:
        CorruptModel: a file is damaged, or what it says of a token is no token.
    """
    decoder = config.get("added_tokens_decoder")
    keys = dict(config)
    if decoder is None:
        keys |= read_json(folder / "special_tokens_map.json")
    named, extra = _named_and_extra(keys, defaults)
    names = {token.content for token in named.values()}
    if decoder is not None:
        return SpecialTokens(named, extra, _decoder(decoder, names))
    special = names | {token.content for token in extra}
    listed = {
        _index(index): AddedToken(text, normalized=text not in special, special=text in special)
        for text, index in read_json(folder / "added_tokens.json").items()
    }
    for index, token in listed_elsewhere.items():
        listed[index] = _made_special(token) if token.content in names else token
    return SpecialTokens(named, extra, listed)


def _named_and_extra(
    keys: Mapping[str, Any], defaults: Defaults
) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    values: dict[str, Any] = dict(defaults.named)
    values |= {
        key: value
        for key, value in keys.items()
        if key in _STANDARD_KEYS or (key.endswith("_token") and _is_token(value))
    }
    given = [keys[name] for name in _LISTS if name in keys]
    extra: Any = next(filter(None, given), ()) if given else defaults.extra
    if isinstance(extra, Mapping):  # further named ones
        values |= extra
        extra = ()
    if not isinstance(extra, Sequence) or isinstance(extra, str):
        raise CorruptModel(f"extra_special_tokens: a list of tokens is expected, not {extra!r}")
    named = {
        key: _token(value, is_named=True) for key, value in values.items() if value is not None
    }
    if defaults.strips_before_mask and isinstance(values.get("mask_token"), str):
        named["mask_token"] = AddedToken(values["mask_token"], lstrip=True, special=True)
    return named, [_token(value) for value in extra]


def _is_token(value: Any) -> bool:
    content = value.get("content") if isinstance(value, Mapping) else value
    return isinstance(content, str)


def _decoder(value: Any, names: Collection[str]) -> dict[int, AddedToken]:
    if not isinstance(value, Mapping):
        raise CorruptModel("added_tokens_decoder: an object of tokens by id is expected")
    return {
        _index(index): _token(
            token,
            special=False,
            is_named=isinstance(token, Mapping) and token.get("content") in names,
        )
        for index, token in value.items()
    }


def _made_special(token: AddedToken) -> AddedToken:
    flags = {name: getattr(token, name) for name in _FLAGS}
    return AddedToken(token.content, **{**flags, "special": True})


def _index(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise CorruptModel(f"an added token has the id {value!r}, which is no number") from error


def _token(value: Any, *, special: bool = True, is_named: bool = False) -> AddedToken:
    """A token from its text or from an object with flags.

    Args:
        special: what holds where there is no such flag.
        is_named: it is special whatever its flag says; and then, as for all special tokens, texts
            are searched for it as they came unless the flag `normalized` is set.
    """
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, Mapping):
        flags = {name: bool(value[name]) for name in _FLAGS if value.get(name) is not None}
        content = value.get("content")
    else:
        flags, content = {}, value
    if not isinstance(content, str):
        raise CorruptModel(f"a special token is {value!r}, neither a text nor an object with one")
    flags = {"special": special, **flags}
    if is_named:
        flags["special"] = True
    return AddedToken(content, **flags)
