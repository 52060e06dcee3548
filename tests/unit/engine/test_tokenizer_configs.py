"""What a folder's configs say of its tokenizer: done as transformers 5 does it, or refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers

from fledge.engine.tokenizer_classes import PLAIN, find_class, heeds_ends
from fledge.errors import CorruptModel, UnsupportedModel
from tests.sentencepiece_files import BLANK, BPE, HEAD, NORMAL, UNIGRAM, sentencepiece_bytes
from tests.unit.engine.small_tokenizers import byte_level, word_piece
from tests.unit.engine.test_tokenizer_files import (
    SPECIAL,
    read,
    save_byte_pairs,
    save_pieces,
    save_vocab_txt,
    tokens_of,
    write_json,
)

END = "<|endoftext|>"


def save_json(folder: Path, raw: RawTokenizer) -> None:
    raw.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    "declared", ["PhobertTokenizer", "BertweetTokenizer", "BertJapaneseTokenizer", "XLMTokenizer"]
)
@pytest.mark.parametrize("suffix", ["", "Fast"])
def test_a_class_of_pythons_own_is_refused_by_name_also_beside_a_tokenizer_json(
    declared: str, suffix: str, tmp_path: Path
) -> None:
    save_vocab_txt(tmp_path, [*SPECIAL, "a"])
    for _ in range(2):
        with pytest.raises(UnsupportedModel, match=f"tokenizer_class is {declared}, which"):
            read(tmp_path, "bert", tokenizer_class=declared + suffix)
        save_json(tmp_path, word_piece())


@pytest.mark.parametrize("declared", ["T5Tokenizer", "AlbertTokenizerFast", "NoSuchTokenizer"])
def test_an_unknown_class_without_a_tokenizer_json_is_refused_by_name(
    declared: str, tmp_path: Path
) -> None:
    save_pieces(tmp_path, "spiece.model")
    with pytest.raises(UnsupportedModel, match=declared.removesuffix("Fast")):
        read(tmp_path, "bert", tokenizer_class=declared)
    save_json(tmp_path, word_piece())
    assert tokens_of(tmp_path, "a", "bert", tokenizer_class=declared) == ["a"]


@pytest.mark.parametrize(
    ("model_type", "declared", "expected"),
    [
        ("bert", "MobileBertTokenizerFast", "BertTokenizer"),
        ("bert", "SqueezeBertTokenizer", "BertTokenizer"),
        ("bert", "LayoutLMTokenizer", "BertTokenizer"),
        ("bert", "LxmertTokenizer", "BertTokenizer"),
        ("bert", "ElectraTokenizerFast", "BertTokenizer"),
        ("roberta", "BartTokenizer", "RobertaTokenizer"),
        ("roberta", "LongformerTokenizer", "RobertaTokenizer"),
        ("roberta", "LEDTokenizerFast", "RobertaTokenizer"),
        ("roberta", "MvpTokenizer", "RobertaTokenizer"),
        ("llama", "Phi3Tokenizer", "LlamaTokenizer"),
        ("bert", "TokenizersBackend", PLAIN),
        ("bert", "PreTrainedTokenizer", PLAIN),
    ],
)
@pytest.mark.parametrize("has_code", [True, False])
def test_a_class_has_the_names_that_transformers_knows_it_by(
    model_type: str, declared: str, expected: str, has_code: bool
) -> None:
    found = find_class(model_type, declared, has_code=has_code, is_byte_level=False)
    assert found == expected


def test_convbert_keeps_the_pipeline_of_tokenizer_json_and_sets_its_own_ends(
    tmp_path: Path,
) -> None:
    raw = word_piece()
    raw.normalizer = normalizers.BertNormalizer(lowercase=False)
    save_json(tmp_path, raw)
    for declared, piece in (("ConvBertTokenizer", "[UNK]"), ("BertTokenizer", "ab")):
        tokens = tokens_of(tmp_path, "Ab", "bert", tokenizer_class=declared, do_lower_case=True)
        assert tokens == ["[CLS]", piece, "[SEP]"]


def test_the_classes_of_dpr_lower_case_whatever_the_config_says(tmp_path: Path) -> None:
    save_vocab_txt(tmp_path, [*SPECIAL, "ab"])
    for declared in ("DPRQuestionEncoderTokenizer", "DPRContextEncoderTokenizer"):
        tokens = tokens_of(tmp_path, "Ab", "bert", tokenizer_class=declared, do_lower_case=False)
        assert tokens == ["[CLS]", "ab", "[SEP]"]


def test_a_stray_end_beside_a_tokenizer_json_counts_only_with_code_of_the_folders_own(
    tmp_path: Path,
) -> None:
    """Code of its own: Alibaba-NLP/gte-Qwen2-7B-instruct."""
    save_byte_pairs(tmp_path, [END], ["h i"])
    config: dict[str, Any] = {"tokenizer_class": "Qwen2Tokenizer", "add_eos_token": True}
    # Without a tokenizer.json, transformers heeds it as well.
    raw = read(tmp_path, "qwen3", tokenizer_class="Qwen2Tokenizer").tokenizer
    assert tokens_of(tmp_path, "hi", "qwen3", **config) == ["hi", END]
    save_json(tmp_path, raw)
    assert tokens_of(tmp_path, "hi", "qwen3", **config) == ["hi"]
    config["auto_map"] = {"AutoTokenizer": ["tokenization_qwen.Qwen2Tokenizer", None]}
    assert tokens_of(tmp_path, "hi", "qwen3", **config) == ["hi", END]


@pytest.mark.parametrize(
    ("model_type", "declared", "expected"),
    [
        ("mistral", "LlamaTokenizer", True),
        ("llama", "LlamaTokenizerFast", True),
        ("gemma2", None, True),
        ("gemma2", "GemmaTokenizerFast", True),
        ("mistral", None, False),
        ("llama", "PreTrainedTokenizerFast", False),
        ("qwen2", None, False),
        ("bert", "BertTokenizer", False),
    ],
)
def test_ends_beside_a_tokenizer_json_are_those_of_llama_and_gemma(
    model_type: str, declared: str | None, expected: bool
) -> None:
    assert heeds_ends(model_type, declared, has_code=False) is expected
    assert heeds_ends(model_type, declared, has_code=True)


@pytest.mark.parametrize("declared", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_the_side_of_tokenizer_jsons_own_truncation_holds_where_the_config_names_none(
    declared: str, tmp_path: Path
) -> None:
    raw = word_piece()
    raw.enable_truncation(4, direction="left")
    save_json(tmp_path, raw)
    assert read(tmp_path, "bert", tokenizer_class=declared).truncation_side == "left"
    files = read(tmp_path, "bert", tokenizer_class=declared, truncation_side="right")
    assert files.truncation_side == "right"
    assert files.tokenizer.truncation is None


def test_a_new_division_into_words_that_transformers_would_make_is_refused(tmp_path: Path) -> None:
    words = {f"w{number}": number for number in range(100_001)}
    raw = RawTokenizer(models.WordLevel({**words, "[UNK]": len(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    save_json(tmp_path, raw)
    for version in (None, "4.57.1"):
        write_json(tmp_path / "config.json", {"transformers_version": version})
        with pytest.raises(UnsupportedModel, match="fix_mistral_regex"):
            read(tmp_path, "mistral", fix_mistral_regex=True)
        assert read(tmp_path, "mistral", fix_mistral_regex=False).tokenizer.get_vocab_size()
        assert read(tmp_path, "llama", fix_mistral_regex=True).tokenizer.get_vocab_size()
    write_json(tmp_path / "config.json", {"transformers_version": "5.1.0"})
    assert read(tmp_path, "mistral", fix_mistral_regex=True).tokenizer.get_vocab_size()


def test_a_new_division_into_words_of_a_small_vocabulary_is_none(tmp_path: Path) -> None:
    save_json(tmp_path, byte_level())
    assert read(tmp_path, "mistral", fix_mistral_regex=True).tokenizer.get_vocab_size()


def save_unigram_json(folder: Path, texts: list[str], **options: Any) -> None:
    vocab = [(text, -float(rank)) for rank, text in enumerate(texts)]
    save_json(folder, RawTokenizer(models.Unigram(vocab, **options)))


@pytest.mark.parametrize(
    "options",
    [
        {"unk_id": 0, "byte_fallback": True},
        {"unk_id": 3, "byte_fallback": True},
        {"unk_id": 0, "byte_fallback": False},
        {"unk_id": 3, "byte_fallback": False},
    ],
)
def test_the_unknown_token_of_xlm_roberta_is_the_fourth_and_bytes_are_never_fallen_back_to(
    options: Mapping[str, Any], tmp_path: Path
) -> None:
    texts = ["<s>", "<pad>", "</s>", "<unk>", f"{BLANK}hi", BLANK, "<0x41>"]
    save_unigram_json(tmp_path, texts, **options)
    assert read(tmp_path, "xlm-roberta").tokenizer.encode("hi A").ids == [0, 4, 5, 3, 2]


@pytest.mark.parametrize(("unknown", "expected"), [("<unk>", 4), ("<x>", 3), ("<none>", 0)])
def test_the_unknown_token_of_camembert_is_found_by_its_text(
    unknown: str, expected: int, tmp_path: Path
) -> None:
    head = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<x>", "<unk>", "<s>", "</s>"]
    save_unigram_json(tmp_path, [*head, BLANK, "<0x41>"], unk_id=1, byte_fallback=True)
    tokenizer = read(tmp_path, "camembert", unk_token=unknown).tokenizer
    assert tokenizer.encode("A").ids == [5, 7, expected, 6]


def test_a_piece_of_endless_length_is_a_corrupt_model_before_its_merges_are_sought(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tokenizer.model"
    for length in (512, 513, 2_000_000):
        pieces = [*HEAD, ("a" * length, -1.0, NORMAL)]
        path.write_bytes(sentencepiece_bytes(pieces, algorithm=BPE))
        if length <= 512:
            assert read(tmp_path, "mistral").tokenizer.get_vocab_size()
            continue
        with pytest.raises(CorruptModel, match=f"a piece has {length} characters; at most 512"):
            read(tmp_path, "mistral")
    # Without merges, length costs nothing.
    pieces = [*HEAD, ("a" * 600, -1.0, NORMAL)]
    path.write_bytes(sentencepiece_bytes(pieces, algorithm=UNIGRAM))
    assert read(tmp_path, "mistral").tokenizer.get_vocab_size()
