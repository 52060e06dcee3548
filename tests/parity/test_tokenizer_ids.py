"""Token ids are those of transformers' fast tokenizers, for every kind of folder and hard texts."""

import functools
import json
import random
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fledge.engine.tokenizer import Tokenizer
from fledge.engine.tokenizer_files import read_tokenizer
from fledge.types import Truncation, TruncationSide
from tests.conftest import require
from tests.parity.texts import SPECIAL_TOKENS_IN_TEXT, TEXTS
from tests.parity.tokenizer_folders import BIG, FOLDERS, TokenizerFolder

transformers = require("transformers", "the reference needs transformers")

LIMIT = 64
MEGABYTE = 1_000_000

HARD = (
    *TEXTS,
    *SPECIAL_TOKENS_IN_TEXT,
    "",
    " ",
    "   a",
    "a   ",
    "\n\n \t a\r\nb \r\n\r\n  c",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣",
    "שָׁלוֹם עוֹלָם",
    "こんにちは世界。カタカナ ﾊﾝｶｸ \uff11\uff12\uff13",
    "안녕하세요 세계 \u1112\u1161\u11ab",
    "สวัสดีชาวโลก नमस्ते दुनिया",
    "".join(map(chr, range(256))),
    "\x00\x00a\x00b \x00",
    "a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg",
    "\u202eright to left\u202c \u2028line\u2029paragraph\x85next",
    "e\u0301\u0323 \u1e69 s\u0323\u0307 \ufb03 \u2126 \u212b \uff21\u3000\uff22",
    "a\u0300" * 50 + "a" + "\u0301" * 60,
    "I'm you're WE'LL they'D it's 'S 1234567 3.14 $5,000 50%",
    "def f(x):\n    return x  # \u2192 y\n\n\n\treturn",
    'http://example.org/a?b=c&d=%20 a@b.co #tag <html> {"json": [1, 2]}',
    "\u2581leading \u2581\u2581 blanks\u2581",
    "<0x41> <s> </s>x<s>y <unk> <|im_start|>user<|im_end|>",
    "\U0010ffff\ue000\ufffe \ud7ff",
    "=" * 200 + " " * 200 + "-" * 201,
)


@functools.cache
def pair(name: str) -> tuple[Tokenizer, Any]:
    """Fledge's tokenizer and transformers' own, of one folder."""
    with tempfile.TemporaryDirectory() as root:
        folder = FOLDERS[name].make(Path(root))
        return both(folder, FOLDERS[name].model_type)


def both(folder: Path, model_type: str, **options: Any) -> tuple[Tokenizer, Any]:
    transformers.logging.set_verbosity_error()  # its warnings about lengths
    reference = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    assert reference.is_fast
    files = read_tokenizer(folder, model_type=model_type, do_lower_case=False)
    return Tokenizer(files, max_seq_length=LIMIT), reference


def whole_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [list(tokens.ids) for tokens in tokenizer.tokenize(texts, None)]


def cut_ids(tokenizer: Tokenizer, text: str, side: TruncationSide) -> list[int]:
    truncation = Truncation(side=side)
    (one,) = tokenizer.encode([text], prompt=None, mask_prompt=False, truncation=truncation)
    return list(one.row.ids)


def reference_cut(reference: Any, text: str, side: TruncationSide) -> list[int]:
    reference.truncation_side = side
    return list(reference(text, truncation=True, max_length=LIMIT)["input_ids"])


def assert_same(tokenizer: Tokenizer, reference: Any, texts: Sequence[str]) -> None:
    wanted = reference(list(texts))["input_ids"]
    for text, got, want in zip(texts, whole_ids(tokenizer, texts), wanted, strict=True):
        assert got == want, f"{text[:200]!r}"


def random_texts(count: int, seed: int) -> list[str]:
    """Characters of all planes, of a few scripts more often, and white space between them."""
    draw = random.Random(seed)  # noqa: S311
    blocks = [(32, 127)] * 4 + [(0, 32), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530)]
    blocks += [(0x590, 0x700), (0x900, 0xA00), (0x2000, 0x2070), (0x2500, 0x2600)]
    blocks += [(0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xE000, 0x10000)]
    blocks += [(0x1F300, 0x1FA00), (0xFE00, 0xFE10), (0x10000, 0x110000)]

    def word() -> str:
        low, high = draw.choice(blocks)
        return "".join(chr(draw.randrange(low, high)) for _ in range(draw.randint(1, 9)))

    spaces = ["", " ", " ", "  ", "\n", "\u00a0", "\u3000", "\t "]
    return [
        "".join(word() + draw.choice(spaces) for _ in range(draw.randint(1, 9)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_of_hard_texts_are_those_of_transformers(name: str) -> None:
    assert_same(*pair(name), HARD)


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_of_random_strings_are_those_of_transformers(name: str) -> None:
    texts = random_texts(10_000 if name in BIG else 1_000, seed=len(name))
    assert any(unicodedata.category(char) == "Cn" for text in texts for char in text)
    assert_same(*pair(name), texts)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", FOLDERS)
def test_texts_beyond_the_limit_are_cut_as_transformers_cuts_them(
    name: str, side: TruncationSide
) -> None:
    tokenizer, reference = pair(name)
    long = ["".join(random_texts(300, seed)) for seed in range(5)]
    for text in [*long, *(text * (8_000 // len(text) + 1) for text in HARD if text.strip())]:
        assert cut_ids(tokenizer, text, side) == reference_cut(reference, text, side), text[:99]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", BIG)
def test_a_megabyte_without_a_space_is_cut_to_the_ids_of_the_whole(
    name: str, side: TruncationSide
) -> None:
    tokenizer, reference = pair(name)
    draw = random.Random(7)  # noqa: S311
    letters = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz0123456789-/", k=MEGABYTE))
    characters = "".join(chr(draw.randrange(0x4E00, 0x9FFF)) for _ in range(MEGABYTE // 3))
    for text in (letters, characters, "unbroken" * (MEGABYTE // 8), "=" * 200_001):
        assert cut_ids(tokenizer, text, side) == reference_cut(reference, text, side), text[:20]


@pytest.mark.parametrize(
    ("saved", "declared"),
    [
        *(
            ("bert, tokenizer.json", f"{name}Tokenizer")
            for name in (
                *("ConvBert", "DPRQuestionEncoder", "DPRContextEncoder", "LayoutLM", "Electra"),
                *("DistilBert", "Lxmert", "MobileBert", "SqueezeBert"),
            )
        ),
        *(
            ("roberta, tokenizer.json", f"{name}Tokenizer")
            for name in ("Bart", "LED", "Longformer", "Mvp")
        ),
        ("llama, SentencePiece", "Phi3Tokenizer"),
        ("mistral, JSON of Llama's class", "Phi3Tokenizer"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "Fast"])
def test_a_class_under_another_name_gives_the_ids_of_transformers(
    saved: str, declared: str, suffix: str, tmp_path: Path
) -> None:
    kind = FOLDERS[saved]
    model_type = "llama" if declared == "Phi3Tokenizer" else kind.model_type
    config = {"tokenizer_class": declared + suffix}
    made = TokenizerFolder(model_type=model_type, save=kind.save, config=config).make(tmp_path)
    assert_same(*both(made, model_type), HARD)


@pytest.mark.parametrize("unk_id", [0, 3, 5])
@pytest.mark.parametrize("family", ["xlm-roberta", "camembert"])
def test_an_unknown_token_that_the_file_names_otherwise_is_that_of_transformers(
    family: str, unk_id: int, tmp_path: Path
) -> None:
    made = FOLDERS[f"{family}, tokenizer.json"].make(tmp_path)
    path = made / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["model"] |= {"unk_id": unk_id, "byte_fallback": True}
    path.write_text(json.dumps(saved))
    assert_same(*both(made, family), HARD)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "bert", "roberta"])
@pytest.mark.parametrize("form", ["tokenizer.json", "vocabulary"])
def test_a_stray_end_is_heeded_where_transformers_heeds_it(
    family: str, form: str, tmp_path: Path
) -> None:
    is_qwen = family.startswith("qwen")
    kind = FOLDERS["qwen3, vocabulary" if is_qwen and form == "vocabulary" else f"{family}, {form}"]
    flags = {"add_bos_token": True, "add_eos_token": True}
    made = TokenizerFolder(model_type=family, save=kind.save, config=flags).make(tmp_path)
    assert_same(*both(made, family), HARD)


@pytest.mark.parametrize("family", ["bert", "qwen3"])
@pytest.mark.parametrize("keys", [{}, {"truncation_side": "right"}, {"truncation_side": "left"}])
def test_the_side_that_is_cut_is_that_of_transformers(
    family: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    kind = FOLDERS[f"{family}, tokenizer.json"]
    made = TokenizerFolder(model_type=family, save=kind.save, config=keys).make(tmp_path)
    config = json.loads((made / "tokenizer_config.json").read_text())
    if not keys:
        config.pop("truncation_side", None)
    (made / "tokenizer_config.json").write_text(json.dumps(config))
    path = made / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["truncation"] = {
        "direction": "Left",
        "max_length": LIMIT,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(saved))
    reference = both(made, family)[1]
    files = read_tokenizer(made, model_type=family, do_lower_case=False)
    assert files.truncation_side == reference.truncation_side == keys.get("truncation_side", "left")


@pytest.mark.parametrize("model_type", ["mistral", "llama"])
def test_an_end_that_the_config_asks_for_is_added_as_transformers_does_when_told(
    model_type: str, tmp_path: Path
) -> None:
    """Not as it does by itself: beside a tokenizer.json it ignores the key, and 4 did not."""
    kind = FOLDERS["mistral, JSON of Llama's class"]
    made = TokenizerFolder(
        model_type=model_type, save=kind.save, config={"add_eos_token": True}
    ).make(tmp_path)
    tokenizer, reference = both(made, model_type, add_bos_token=True, add_eos_token=True)
    assert whole_ids(tokenizer, ["a"])[0][-1] == reference.eos_token_id
    assert_same(tokenizer, reference, HARD)
