"""Folders with or without a tokenizer.json: the class that they get, and what it makes of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from fledge.engine.tokenizer import Tokenizer
from fledge.engine.tokenizer_classes import CLASSES, PLAIN, find_class
from fledge.engine.tokenizer_files import TokenizerFiles, read_tokenizer
from fledge.errors import CorruptModel, UnsupportedModel
from fledge.types import Truncation
from tests.sentencepiece_files import (
    BLANK,
    BPE,
    HEAD,
    NORMAL,
    UNIGRAM,
    USER_DEFINED,
    bpe_pieces,
    save_sentencepiece,
    sentencepiece_bytes,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"{BLANK}hello", f"{BLANK}world", "ha", BLANK * 2]
BYTE_FALLBACK = {35: 1}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def read(folder: Path, model_type: str, **config: Any) -> TokenizerFiles:
    write_json(folder / "tokenizer_config.json", config)
    return read_tokenizer(folder, model_type=model_type, do_lower_case=False)


def tokens_of(folder: Path, text: str, model_type: str, **config: Any) -> list[str]:
    return list(read(folder, model_type, **config).tokenizer.encode(text).tokens)


def save_vocab_txt(folder: Path, words: Sequence[str]) -> None:
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def save_byte_pairs(folder: Path, special: Sequence[str], merges: Sequence[str]) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*special, *letters, *(merge.replace(" ", "") for merge in merges)]
    write_json(folder / "vocab.json", {name: index for index, name in enumerate(names)})
    text = "\n".join(["#version: 0.2", *merges]) + "\n"
    (folder / "merges.txt").write_text(text, encoding="utf-8")


def save_pieces(folder: Path, name: str = "tokenizer.model") -> None:
    content = sentencepiece_bytes(bpe_pieces(WORDS), algorithm=BPE, trainer=BYTE_FALLBACK)
    save_sentencepiece(folder / name, content)


def save_unigram(folder: Path, name: str = "sentencepiece.bpe.model") -> None:
    pieces = [(f"{BLANK}hi", -1.0, NORMAL), (BLANK, -3.0, NORMAL), ("h", -4.0, NORMAL)]
    save_sentencepiece(folder / name, sentencepiece_bytes([*HEAD, *pieces], algorithm=UNIGRAM))


@pytest.mark.parametrize(
    ("model_type", "declared", "expected"),
    [
        ("bert", None, "BertTokenizer"),
        ("bert", "BertTokenizerFast", "BertTokenizer"),
        ("bert", "XLMRobertaTokenizer", "XLMRobertaTokenizer"),
        ("bert", "PreTrainedTokenizerFast", PLAIN),
        ("qwen3", "Qwen2Tokenizer", "Qwen2Tokenizer"),
        ("qwen2", "PreTrainedTokenizerFast", "Qwen2Tokenizer"),
        ("mistral", "LlamaTokenizer", PLAIN),
        ("mistral", None, PLAIN),
        ("llama", "LlamaTokenizerFast", "LlamaTokenizer"),
        ("llama", None, PLAIN),
        ("gemma2", "GemmaTokenizerFast", "GemmaTokenizer"),
        ("modernbert", "BertTokenizer", PLAIN),
    ],
)
def test_a_folder_gets_the_class_that_transformers_gives_it(
    model_type: str, declared: str | None, expected: str
) -> None:
    assert find_class(model_type, declared, has_code=False, is_byte_level=False) == expected


def test_a_byte_level_llama_is_taken_as_its_file_has_it() -> None:
    found = find_class("llama", "LlamaTokenizer", has_code=False, is_byte_level=True)
    assert found == PLAIN


def test_code_of_the_folders_own_makes_the_declared_class_count() -> None:
    found = find_class("mistral", "LlamaTokenizer", has_code=True, is_byte_level=True)
    assert found == "LlamaTokenizer"


def test_vocab_txt_is_wordpiece_between_cls_and_sep(tmp_path: Path) -> None:
    save_vocab_txt(tmp_path, [*SPECIAL, "he", "##llo", "漢"])
    for model_type in ("bert", "distilbert", "electra"):
        tokens = tokens_of(tmp_path, "Hello漢 [MASK] x", model_type)
        assert tokens == ["[CLS]", "he", "##llo", "漢", "[MASK]", "[UNK]", "[SEP]"]
    assert "[UNK]" in tokens_of(tmp_path, "Hello", "bert", do_lower_case=False)


def test_vocab_txt_of_mpnet_has_its_own_special_tokens(tmp_path: Path) -> None:
    save_vocab_txt(tmp_path, ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", "he", "##llo"])
    assert read(tmp_path, "mpnet").tokenizer.encode("hello <mask> y").ids == [0, 5, 6, 4, 3, 2]


def test_vocab_json_and_merges_are_byte_pairs_of_roberta(tmp_path: Path) -> None:
    save_byte_pairs(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], ["h i", "Ġ hi"])
    assert tokens_of(tmp_path, "hi hi\n", "roberta") == ["<s>", "hi", "Ġhi", "Ċ", "</s>"]
    prefixed = tokens_of(tmp_path, "hi", "roberta", add_prefix_space=True)
    assert prefixed == ["<s>", "Ġhi", "</s>"]


def test_vocab_json_and_merges_are_byte_pairs_of_qwen_with_its_own_words(tmp_path: Path) -> None:
    save_byte_pairs(tmp_path, [], ["h i", "Ġ hi", "1 1"])
    end = "<|endoftext|>"
    listed = {"259": {"content": end, "special": True}}
    for model_type in ("qwen2", "qwen3"):
        # Digits stand alone, and an accent is put together with its letter.
        text = f"hi hi11e\u0301{end}"
        tokens = tokens_of(tmp_path, text, model_type, added_tokens_decoder=listed)
        assert tokens == ["hi", "Ġhi", "1", "1", "Ã", "©", end]


def test_sentencepiece_bpe_of_llama_puts_a_blank_before_the_text(tmp_path: Path) -> None:
    save_pieces(tmp_path)
    config = {"tokenizer_class": "LlamaTokenizer"}
    assert tokens_of(tmp_path, "hello world", "llama", **config) == WORDS[:2]
    assert tokens_of(tmp_path, " hello", "llama", **config) == [f"{BLANK}hello"]
    assert tokens_of(tmp_path, "é", "llama", **config) == [BLANK, "<0xC3>", "<0xA9>"]
    bare = tokens_of(tmp_path, "hello", "llama", add_prefix_space=False, **config)
    assert bare == ["h", "e", "l", "l", "o"]


def test_sentencepiece_bpe_without_a_known_class_puts_no_blank_before_the_text(
    tmp_path: Path,
) -> None:
    """As transformers 5 reads a folder of Mistral that has no tokenizer.json."""
    save_pieces(tmp_path)
    config = {"tokenizer_class": "LlamaTokenizer"}
    assert tokens_of(tmp_path, "ha world", "mistral", **config) == ["ha", f"{BLANK}world"]


def test_sentencepiece_bpe_of_gemma_puts_no_blank_before_the_text(tmp_path: Path) -> None:
    save_pieces(tmp_path)
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    tokens = tokens_of(tmp_path, "ha world", "gemma2", **config)
    assert tokens == ["<s>", "ha", f"{BLANK}world", "</s>"]


@pytest.mark.parametrize("name", ["tokenizer.model", "sentencepiece.bpe.model", "spiece.model"])
def test_sentencepiece_files_are_found_under_their_usual_names(name: str, tmp_path: Path) -> None:
    save_unigram(tmp_path, name)
    assert tokens_of(tmp_path, "hi", "xlm-roberta") == ["<s>", f"{BLANK}hi", "</s>"]


def test_ids_of_xlm_roberta_make_room_for_fairseqs_padding(tmp_path: Path) -> None:
    save_unigram(tmp_path)
    tokenizer = read(tmp_path, "xlm-roberta").tokenizer
    assert tokenizer.encode("hi x <mask>").ids == [0, 4, 5, 3, 7, 2]
    assert tokenizer.token_to_id("<pad>") == 1


def test_ids_of_camembert_make_room_for_fairseqs_five(tmp_path: Path) -> None:
    save_unigram(tmp_path)
    tokenizer = read(tmp_path, "camembert").tokenizer
    assert tokenizer.encode("hi x<mask>").ids == [5, 7, 8, 3, 10, 6]
    assert tokenizer.token_to_id("<pad>") == 1
    assert tokenizer.token_to_id("<unk>NOTUSED") == 4


def test_add_prefix_space_of_false_is_heeded_by_xlm_roberta_also_beside_a_tokenizer_json(
    tmp_path: Path,
) -> None:
    save_unigram(tmp_path)
    read(tmp_path, "xlm-roberta").tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert f"{BLANK}hi" in tokens_of(tmp_path, "hi", "xlm-roberta")
    bare = tokens_of(tmp_path, "h", "xlm-roberta", add_prefix_space=False)
    assert bare == ["<s>", "h", "</s>"]


def test_controls_and_symbols_of_a_sentencepiece_file_are_never_split(tmp_path: Path) -> None:
    pieces = [*bpe_pieces(WORDS), ("[tool]", 0.0, USER_DEFINED)]
    content = sentencepiece_bytes(pieces, algorithm=BPE, trainer=BYTE_FALLBACK)
    save_sentencepiece(tmp_path / "tokenizer.model", content)
    config = {"tokenizer_class": "LlamaTokenizer"}
    tokens = tokens_of(tmp_path, "ha[tool]</s>", "llama", **config)
    assert tokens[-2:] == ["[tool]", "</s>"]


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        ({}, 0, 0),
        ({"add_eos_token": True}, 0, 1),
        ({"add_bos_token": True}, 1, 0),
        ({"add_bos_token": True, "add_eos_token": True}, 1, 1),
        ({"add_bos_token": False, "add_eos_token": None}, 0, 0),
        ({"add_bos_token": True, "bos_token": None}, 0, 0),
    ],
)
@pytest.mark.parametrize("model_type", ["mistral", "llama"])
def test_a_beginning_and_an_end_are_added_where_the_config_says_so(
    flags: Mapping[str, object], before: int, after: int, model_type: str, tmp_path: Path
) -> None:
    save_pieces(tmp_path)
    files = read(tmp_path, model_type, tokenizer_class="LlamaTokenizer", **flags)
    whole = files.tokenizer.encode("hello").ids
    body = files.tokenizer.encode("hello", add_special_tokens=False).ids
    assert whole == [1] * before + body + [2] * after
    tokenizer = Tokenizer(files, max_seq_length=8)
    rows = tokenizer.encode(
        ["hello" * 9], prompt=None, mask_prompt=False, truncation=Truncation(side="left")
    )
    assert list(rows[0].row.ids[:before]) == [1] * before
    assert list(rows[0].row.ids[8 - after :]) == [2] * after


def save_json_with(folder: Path, post_processor: Any) -> None:
    """A tokenizer.json in Mistral's way, with its special tokens around a text or without."""
    save_pieces(folder)
    raw = read(folder, "mistral").tokenizer
    raw.post_processor = post_processor
    raw.save(str(folder / "tokenizer.json"))


def template(single: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])


@pytest.mark.parametrize("single", ["$A", "<s> $A", "<s> $A </s>", "$A </s>"])
@pytest.mark.parametrize("model_type", ["mistral", "llama"])
def test_an_end_that_only_the_config_asks_for_is_added_to_those_of_tokenizer_json(
    single: str, model_type: str, tmp_path: Path
) -> None:
    """intfloat/e5-mistral-7b-instruct: tokenizer.json has `<s> $A`, the config wants an end."""
    save_json_with(tmp_path, template(single))
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    alone = tokens_of(tmp_path, "ha", model_type, **config)
    assert (alone[-1] == "</s>") == ("</s>" in single)
    tokens = tokens_of(tmp_path, "ha", model_type, add_eos_token=True, **config)
    assert tokens == (alone if "</s>" in single else [*alone, "</s>"])
    files = read(tmp_path, model_type, add_eos_token=True, **config)
    rows = Tokenizer(files, max_seq_length=4).encode(
        ["hahahahaha"], prompt=None, mask_prompt=False, truncation=Truncation(side="right")
    )
    assert len(rows[0].row.ids) == 4
    assert rows[0].row.ids[-1] == 2
    assert (rows[0].row.ids[0] == 1) == ("<s>" in single)


def test_an_end_of_a_byte_level_tokenizer_json_is_kept(tmp_path: Path) -> None:
    """Qwen3-Embedding: tokenizer.json ends a text, the config says nothing of it."""
    save_byte_pairs(tmp_path, ["<|endoftext|>"], ["h i"])
    raw = read(tmp_path, "qwen3").tokenizer
    end = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    raw.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), end])
    raw.save(str(tmp_path / "tokenizer.json"))
    files = read(tmp_path, "qwen3", tokenizer_class="Qwen2Tokenizer", add_bos_token=False)
    assert files.tokenizer.encode("hi").tokens == ["hi", "<|endoftext|>"]
    (row,) = Tokenizer(files, max_seq_length=3).encode(
        ["hi hi hi"], prompt="hi", mask_prompt=True, truncation=Truncation(side="right")
    )
    assert list(row.row.ids[2:]) == [0]
    assert row.row.masked_tokens == 1


def test_known_classes_build_their_pipeline_anew_beside_a_tokenizer_json(tmp_path: Path) -> None:
    save_pieces(tmp_path)
    raw = read(tmp_path, "llama", tokenizer_class="LlamaTokenizer").tokenizer
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = None
    raw.save(str(tmp_path / "tokenizer.json"))
    assert tokens_of(tmp_path, "HELLO", "llama")[0] == "h"
    tokens = tokens_of(tmp_path, "hello", "llama", tokenizer_class="LlamaTokenizer")
    assert tokens == [f"{BLANK}hello"]


@pytest.mark.parametrize("where", ["tokenizer_config", "added_tokens"])
def test_tokens_beside_the_vocabulary_are_added_from_any_file_that_lists_them(
    where: str, tmp_path: Path
) -> None:
    save_vocab_txt(tmp_path, [*SPECIAL, "a", "b"])
    config: dict[str, Any] = {}
    if where == "tokenizer_config":
        config = {"added_tokens_decoder": {"7": {"content": "[NEW]", "special": False}}}
    else:
        write_json(tmp_path / "added_tokens.json", {"[NEW]": 7})
    tokenizer = read(tmp_path, "bert", **config).tokenizer
    assert tokenizer.encode("a [NEW] b", add_special_tokens=False).ids == [5, 7, 6]


def test_special_tokens_map_names_tokens_where_the_config_lists_none(tmp_path: Path) -> None:
    save_vocab_txt(tmp_path, ["<p>", "<u>", "<c>", "<e>", "a"])
    write_json(
        tmp_path / "special_tokens_map.json",
        {
            "cls_token": "<c>",
            "sep_token": {"content": "<e>", "lstrip": False},
            "unk_token": "<u>",
            "pad_token": "<p>",
        },
    )
    assert tokens_of(tmp_path, "a x", "bert") == ["<c>", "a", "<u>", "<e>"]
    with pytest.raises(CorruptModel, match="cls_token"):
        tokens_of(tmp_path, "a", "bert", added_tokens_decoder={}, unk_token="<u>")


def test_a_special_token_that_the_vocabulary_lacks_gets_no_invented_id(tmp_path: Path) -> None:
    save_vocab_txt(tmp_path, SPECIAL[:4])
    tokenizer = read(tmp_path, "bert").tokenizer
    assert tokenizer.get_vocab_size() == 4


@pytest.mark.parametrize(
    ("model_type", "files"),
    [
        ("bert", {}),
        ("bert", {"vocab.json": "{}", "merges.txt": ""}),
        ("bert", {"vocab.txt": ""}),
        ("bert", {"vocab.txt": "a\nb\n"}),
        ("roberta", {"vocab.json": '{"<s>": 0, "</s>": 1}'}),
        ("roberta", {"vocab.json": "[1]", "merges.txt": ""}),
        ("roberta", {"vocab.json": '{"<s>": 0, "</s>": 1}', "merges.txt": "a b\n"}),
        ("qwen2", {"vocab.json": '{"a": "b"}', "merges.txt": ""}),
        ("xlm-roberta", {"vocab.txt": "a"}),
        ("mistral", {}),
        ("nothing", {"vocab.txt": "a"}),
    ],
)
def test_vocabulary_files_that_lack_or_are_damaged_are_a_corrupt_model(
    model_type: str, files: Mapping[str, str], tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(CorruptModel):
        read(tmp_path, model_type)


def test_a_vocabulary_that_is_not_utf8_is_a_corrupt_model(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\n[CLS]\n[SEP]\n\xff\xfe\n")
    with pytest.raises(CorruptModel):
        read(tmp_path, "bert")


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"x": {"content": "[A]"}}},
        {"added_tokens_decoder": {"9": {}}},
        {"added_tokens_decoder": {"9": 5}},
        {"cls_token": 5},
        {"cls_token": "[NOT THERE]"},
        {"cls_token": None},
        {"extra_special_tokens": "x"},
        {"extra_special_tokens": [None]},
    ],
)
def test_a_config_that_garbles_its_tokens_is_a_corrupt_model(
    config: dict[str, Any], tmp_path: Path
) -> None:
    save_vocab_txt(tmp_path, [*SPECIAL, "a"])
    with pytest.raises(CorruptModel):
        read(tmp_path, "bert", **config)


def test_a_sentencepiece_file_of_another_algorithm_is_not_supported(tmp_path: Path) -> None:
    for algorithm in (UNIGRAM, 3, 4):
        content = sentencepiece_bytes(bpe_pieces(WORDS), algorithm=algorithm)
        save_sentencepiece(tmp_path / "tokenizer.model", content)
        with pytest.raises(UnsupportedModel, match="tokenizer"):
            read(tmp_path, "llama", tokenizer_class="LlamaTokenizer")
    with pytest.raises(UnsupportedModel, match="CHARACTER"):
        read(tmp_path, "mistral")


def test_a_garbled_normalization_of_a_sentencepiece_file_is_a_corrupt_model(tmp_path: Path) -> None:
    for charsmap in (b"x", b"\xff\xff\xff\xff", b"\x04\0\0\0abcd", b"\x08\0\0\0" + b"\xff" * 12):
        content = sentencepiece_bytes(
            [*HEAD, ("a", -1.0, NORMAL)], algorithm=UNIGRAM, charsmap=charsmap
        )
        save_sentencepiece(tmp_path / "sentencepiece.bpe.model", content)
        with pytest.raises(CorruptModel):
            read(tmp_path, "xlm-roberta")


def test_a_tokenizer_json_of_another_algorithm_than_its_class_is_taken_as_it_is(
    tmp_path: Path,
) -> None:
    raw = RawTokenizer(models.WordLevel({"Ab": 0, "[UNK]": 1}, unk_token="[UNK]"))
    raw.save(str(tmp_path / "tokenizer.json"))
    assert tokens_of(tmp_path, "Ab", "bert") == ["Ab"]


def test_every_registered_class_is_one_that_is_built_or_the_plain_one() -> None:
    types = ("bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta", "camembert")
    decoders = ("qwen2", "qwen3", "gemma2")
    for model_type in (*types, *decoders):
        assert find_class(model_type, None, has_code=False, is_byte_level=False) in CLASSES
