"""The memory keeps to its budget, and what was used longest ago leaves first."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.cache.entry import Cached, pack
from fledge.cache.memory import MemoryTier
from fledge.types import EmbedResult
from tests.unit.cache.fakes import entry, key, pairs

TEXTS = st.sampled_from("abcdefgh")
DIMENSIONS = st.sampled_from([1, 8, 100, 2000])


@dataclass(frozen=True)
class Put:
    pairs: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Get:
    texts: Sequence[str]


STEPS = st.builds(Put, st.lists(st.tuples(TEXTS, DIMENSIONS))) | st.builds(Get, st.lists(TEXTS))


class Obvious:
    """The same with a list, the one used last at its end."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.kept: list[tuple[str, Cached]] = []

    def size_bytes(self) -> int:
        return sum(size_bytes(text, one) for text, one in self.kept)

    def put(self, text: str, one: Cached) -> None:
        self.kept = [pair for pair in self.kept if pair[0] != text]
        if size_bytes(text, one) <= self.budget_bytes:
            self.kept.append((text, one))
        while self.size_bytes() > self.budget_bytes:
            self.kept.pop(0)

    def get(self, text: str) -> Cached | None:
        for pair in self.kept:
            if pair[0] == text:
                self.kept.remove(pair)
                self.kept.append(pair)
                return pair[1]
        return None


def size_bytes(text: str, one: Cached) -> int:
    memory = MemoryTier(2**30)
    memory.put([(key(text), one)])
    return memory.size_bytes


@given(st.integers(0, 20_000), st.lists(STEPS))
def test_it_does_as_the_obvious_thing_does(budget_bytes: int, steps: list[Put | Get]) -> None:
    memory, obvious = MemoryTier(budget_bytes), Obvious(budget_bytes)
    for step in steps:
        if isinstance(step, Put):
            made = [(text, entry(text, dimension)) for text, dimension in step.pairs]
            memory.put([(key(text), one) for text, one in made])
            for text, one in made:
                obvious.put(text, one)
        else:
            found = memory.get([key(text) for text in step.texts])
            assert found == [obvious.get(text) for text in step.texts]
        assert memory.size_bytes == obvious.size_bytes() <= budget_bytes
        assert len(memory) == len(obvious.kept)


def test_the_one_used_longest_ago_leaves_first() -> None:
    memory = MemoryTier(3 * size_bytes("a", entry("a")))
    memory.put(pairs("a", "b", "c"))
    memory.get([key("a")])
    memory.put(pairs("d"))
    found = memory.get([key(text) for text in "abcd"])
    assert [one is not None for one in found] == [True, False, True, True]


def test_one_that_is_larger_than_the_budget_drives_out_nobody() -> None:
    memory = MemoryTier(2 * size_bytes("a", entry("a")))
    memory.put(pairs("a"))
    memory.put([(key("large"), entry("large", dimension=4096))])
    assert memory.get([key("a"), key("large")]) == [entry("a"), None]


def test_an_entry_that_no_longer_fits_takes_its_older_self_along() -> None:
    memory = MemoryTier(2 * size_bytes("a", entry("a")))
    memory.put(pairs("a"))
    memory.put([(key("a"), entry("a", dimension=4096))])
    assert memory.get([key("a")]) == [None]
    assert memory.size_bytes == 0


@pytest.mark.parametrize("count", [100, 3000])
def test_it_counts_no_less_than_it_takes_and_not_much_more(count: int) -> None:
    memory = MemoryTier(2**30)
    vectors = np.ones((1, 384), dtype=np.float32)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            one_key = key(str(number))
            one = EmbedResult(vectors=vectors, token_counts=[5], truncated=[False])
            memory.put([(one_key, pack([one_key], one)[0])])
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    taken = after - before
    assert taken <= memory.size_bytes <= 1.1 * taken
