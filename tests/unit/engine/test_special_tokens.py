"""Special tokens are collected from what is a token, and nothing that was read is changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from fledge.engine.special_tokens import Defaults, SpecialTokens, read_special_tokens
from fledge.errors import CorruptModel

NO_DEFAULTS = Defaults({})


def collect(
    folder: Path, config: Mapping[str, Any], listed: Mapping[int, AddedToken] | None = None
) -> SpecialTokens:
    return read_special_tokens(folder, config, NO_DEFAULTS, listed or {})


@pytest.mark.parametrize(
    "value",
    [5, 1.5, True, [], ["<i>"], {}, {"lstrip": True}, {"content": 5}, {"content": None}, None],
)
def test_a_key_of_a_models_own_that_names_no_token_is_ignored(
    value: object, tmp_path: Path
) -> None:
    config = {"image_token": value, "max_token": 7, "cls_token": "[CLS]"}
    assert set(collect(tmp_path, config).named) == {"cls_token"}


@pytest.mark.parametrize("value", ["<i>", {"content": "<i>", "lstrip": True}])
def test_a_key_of_a_models_own_that_names_a_token_is_one(value: object, tmp_path: Path) -> None:
    token = collect(tmp_path, {"image_token": value}).named["image_token"]
    assert (token.content, token.special) == ("<i>", True)


@pytest.mark.parametrize("value", [5, True, [], {}, {"content": 5}])
def test_a_standard_key_that_names_no_token_is_a_corrupt_model(
    value: object, tmp_path: Path
) -> None:
    with pytest.raises(CorruptModel, match="a special token is"):
        collect(tmp_path, {"cls_token": value})


def test_a_named_token_is_special_whatever_its_list_says(tmp_path: Path) -> None:
    decoder = {
        "0": {"content": "<n>", "special": False},
        "1": {"content": "<m>", "special": False, "normalized": True},
        "2": {"content": "<o>"},
    }
    config = {"cls_token": "<n>", "sep_token": "<m>", "added_tokens_decoder": decoder}
    listed = collect(tmp_path, config).listed
    assert [listed[index].special for index in range(3)] == [True, True, False]
    assert [listed[index].normalized for index in range(3)] == [False, True, True]


def test_making_a_token_special_leaves_the_one_that_was_read_as_it_is(tmp_path: Path) -> None:
    read = AddedToken("<n>", lstrip=True, normalized=True, special=False)
    tokens = collect(tmp_path, {"cls_token": "<n>"}, {1: read})
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<n>": 1}, unk_token="a"))
    tokens.add_to(tokenizer)
    (added,) = tokenizer.get_added_tokens_decoder().values()
    assert (added.lstrip, added.normalized, added.special) == (True, True, True)
    assert not read.special
