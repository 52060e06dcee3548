"""A text that is long to tokenize holds up nobody: the event loop goes on while it is worked on."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from fledge.engine.backend import LocalBackend, load_transformer
from fledge.engine.lane import Lane
from fledge.engine.recipe import read_recipe
from fledge.engine.sources import ModelFolder
from fledge.types import EmbedJob
from tests.heartbeat import TICK_S, with_heartbeat
from tests.tiny import save_bert

SIZE = 2_000_000
TEXTS = {"one endless word": "w" * SIZE, "spaces": " " * SIZE + "w5"}
# the more tokens a model takes, the further into such a text the tokenizer looks
MOST_TOKENS = 1024
# Other programs hold up the loop now and then; a call that does it by itself does it every time.
TRIES = 3


def save_word_piece(folder: Path) -> None:
    """The tokenizer of a BERT over the vocabulary that the folder has."""
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module", params=["whole words", "WordPiece"])
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalBackend]:
    folder = save_bert(tmp_path_factory.mktemp("model"), positions=MOST_TOKENS)
    if request.param == "WordPiece":
        save_word_piece(folder)
    lane = Lane(batch_target_ms=35, max_queued_tokens=10**6)
    backend = load_transformer(
        ModelFolder(folder, "test/tiny", "abc", "a test"),
        read_recipe(folder),
        lane=lane,
        precision="fp32",
        threads=1,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )
    yield backend
    backend.close()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_loop_goes_on_while_a_long_text_is_embedded(backend: LocalBackend, text: str) -> None:
    job = EmbedJob(items=[text])

    seen = [asyncio.run(with_heartbeat(backend.embed(job)))[1] for _ in range(TRIES)]

    # held up by the tokenizer, it stands still for half of the time and more
    assert min(one.longest_gap_s / one.elapsed_s for one in seen) < 1 / 3, seen


async def _block() -> None:
    time.sleep(20 * TICK_S)  # noqa: ASYNC251 - the very thing that must be seen


def test_the_heartbeat_sees_a_loop_that_is_held_up() -> None:
    _, seen = asyncio.run(with_heartbeat(_block()))

    assert seen.ticks == 0
    assert seen.longest_gap_s == pytest.approx(seen.elapsed_s)


def test_the_heartbeat_sees_a_loop_that_goes_on() -> None:
    _, seen = asyncio.run(with_heartbeat(asyncio.sleep(20 * TICK_S)))

    assert seen.ticks >= 2
    assert seen.longest_gap_s < seen.elapsed_s
