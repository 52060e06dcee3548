"""The texts of a run: the same ones for every engine, chosen without chance deciding anything.

A subset is spread evenly over the lengths of the whole, so that twelve passages for a slow model
have the lengths of all 240.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.models import Model
from benchmarks.processes import ROOT

XQUAD = ROOT.parent / "shared" / "data" / "xquad" / "en.json"
SEED = 7
QUERY_TOKENS = range(6, 41)
BULK_TEXTS = 64
WORDS = ("river", "stone", "quiet", "hill", "people", "town", "long", "wall", "water", "year")


@dataclass(frozen=True, slots=True)
class Corpus:
    """All texts there are, and where they are from."""

    questions: Sequence[str]
    passages: Sequence[str]
    origin: str


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts, and how many tokens the model computes for each of them."""

    texts: Sequence[str]
    tokens: Sequence[int]

    @property
    def total_tokens(self) -> int:
        return sum(self.tokens)


def read_corpus(path: Path = XQUAD) -> Corpus:
    """XQuAD's English questions and paragraphs, or generated text where they are absent."""
    if path.is_file():
        data = json.loads(path.read_text(encoding="utf-8"))
        questions = [entry["question"] for entry in data["questions"]]
        return Corpus(_distinct(questions), _distinct(data["paragraphs"]), "XQuAD (English)")
    print(f"no {path.name} of XQuAD beside the project: measuring with generated text instead")
    rng = random.Random(SEED)  # noqa: S311 - texts, not secrets

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    questions = [text(5, 22) + "?" for _ in range(1190)]
    return Corpus(questions, [text(50, 300) + "." for _ in range(240)], "generated text")


def make_workloads(model: Model, corpus: Corpus, sizes: Mapping[str, int]) -> dict[str, Workload]:
    """The workloads of one model by name.

    Args:
        sizes: numbers of texts; with a `crowd` there is also what a server is measured with.
    """
    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    tokenizer.enable_truncation(model.max_tokens)
    tokenizer.no_padding()

    def counted(texts: Sequence[str]) -> Workload:
        return Workload(texts, [len(e.ids) for e in tokenizer.encode_batch(list(texts))])

    questions, passages = counted(corpus.questions), counted(corpus.passages)
    queries = [
        text
        for text, count in zip(questions.texts, questions.tokens, strict=True)
        if count in QUERY_TOKENS
    ]
    alike = {"short": questions, "passages": passages}
    chosen: dict[str, list[str]] = {
        name: _spread(alike[name], count) if name in alike else _mixed(questions, passages, count)
        for name, count in sizes.items()
    }
    chosen["queries"] = _shuffled(queries)[:200]
    if "crowd" in sizes:
        chosen["bulk"] = _spread(passages, BULK_TEXTS)
        chosen["longest"] = [max(zip(passages.tokens, passages.texts, strict=True))[1]]
    return {name: counted(texts) for name, texts in chosen.items()}


def _spread(all_of_them: Workload, count: int) -> list[str]:
    """`count` texts at even distances when sorted by length, shuffled."""
    order = sorted(range(len(all_of_them.texts)), key=all_of_them.tokens.__getitem__)
    count = min(count, len(order))
    places = [int((index + 0.5) * len(order) / count) for index in range(count)]
    return _shuffled([all_of_them.texts[order[place]] for place in places])


def _mixed(questions: Workload, passages: Workload, count: int) -> list[str]:
    """Half questions, half passages."""
    return _shuffled([*_spread(questions, count // 2), *_spread(passages, count // 2)])


def _shuffled(texts: Sequence[str]) -> list[str]:
    return random.Random(SEED).sample(list(texts), len(texts))  # noqa: S311 - likewise


def _distinct(texts: Sequence[str]) -> list[str]:
    """Each text once: Fledge computes equal texts of a request once, and others do not."""
    return list(dict.fromkeys(texts))
