"""Texts with more tokens than the model takes: cut as asked, refused by name, never silently."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.errors import CannotCarry, InputTooLong, InvalidRequest, ProviderRefused, TooManyInputs
from fledge.providers import lengths
from fledge.types import ModelEntry, Truncation
from fledge.vectors import normalize
from tests.providers.troubles import says_json
from tests.providers.wire import Flavour, tokens_of, vector_of
from tests.unit.providers.conftest import PRESET_OF, Backends, Fakes, job

pytestmark = pytest.mark.anyio

ENTRY = ModelEntry(id="org/name", dimension=8, max_seq_length=16)
SHORT = "short"
DOUBTFUL = "it has few tokens but many bytes"
LONG = " ".join(f"w{number}" for number in range(30))
VERY_LONG = "word " * 100
ASKED: list[Flavour] = ["tei", "toolkit", "cohere", "fledge"]
REFUSING: list[Flavour] = ["openai", "sambanova", "featherless", "vllm"]
CUTTING: list[Flavour] = ["hf-inference", "infinity"]
CUT = Truncation()
REFUSE = Truncation(refuse=True)


async def count(texts: Sequence[str]) -> list[int]:
    return [tokens_of(text) for text in texts]


def first_words(text: str, many: int = 14) -> str:
    return " ".join(text.split()[:many])


@pytest.mark.parametrize("flavour", ASKED)
async def test_where_it_can_be_asked_for_a_text_is_cut_on_the_side_that_was_asked_for(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    for text in (LONG, VERY_LONG):
        for side, expected in (
            (None, " ".join(text.split()[:14])),
            ("right", " ".join(text.split()[:14])),
            ("left", " ".join(text.split()[-14:])),
        ):
            backend = backends(fakes(flavour, max_tokens=16), ENTRY)
            result = await backend.embed(job(text, truncation=Truncation(side=side)))  # type: ignore[arg-type] # both are sides
            assert np.allclose(normalize(result.vectors)[0], vector_of(expected), atol=1e-6)
            assert result.truncated == [True]


@pytest.mark.parametrize("flavour", ASKED)
async def test_a_text_that_may_be_too_long_is_known_not_to_be_when_it_was_not_refused(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour, max_tokens=16)
    result = await backends(fake, ENTRY).embed(job(DOUBTFUL, SHORT, truncation=CUT))
    assert result.truncated == [False, False]
    assert len(fake.requests) == 1


@pytest.mark.parametrize("flavour", ["tei", "cohere"])
async def test_texts_beside_a_long_one_may_have_been_cut_unless_they_surely_fit(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    backend = backends(fakes(flavour, max_tokens=16), ENTRY)
    result = await backend.embed(job(SHORT, LONG, DOUBTFUL, truncation=CUT))
    assert result.truncated == [False, True, True]


@pytest.mark.parametrize("flavour", list(PRESET_OF))
async def test_with_a_tokenizer_at_hand_it_is_known_which_was_cut(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    backend = backends(fakes(flavour, max_tokens=16), ENTRY, count_tokens=count)
    if flavour in REFUSING:
        with pytest.raises(CannotCarry, match=r"`items\[1\]` has more tokens"):
            await backend.embed(job(SHORT, LONG, DOUBTFUL, truncation=CUT))
        result = await backend.embed(job(SHORT, DOUBTFUL, truncation=CUT))
        assert result.truncated == [False, False]
        return
    result = await backend.embed(job(SHORT, LONG, DOUBTFUL, truncation=CUT))
    assert result.truncated == [False, True, False]
    assert result.token_counts == [3, 16, tokens_of(DOUBTFUL)]
    assert not result.counts_estimated


@pytest.mark.parametrize("flavour", ASKED + REFUSING)
async def test_a_text_that_is_not_to_be_cut_is_refused_by_its_number(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    backend = backends(fakes(flavour, max_tokens=16), ENTRY)
    with pytest.raises(InputTooLong, match="takes at most 16 tokens") as caught:
        await backend.embed(job(SHORT, "a", LONG, SHORT, truncation=REFUSE))
    assert caught.value.field == "items[2]", "the others fit for certain"


async def test_where_several_may_be_at_fault_the_providers_word_counts(
    fakes: Fakes, backends: Backends
) -> None:
    for flavour, field in (("fledge", "items[2]"), ("openai", None)):
        backend = backends(fakes(flavour, max_tokens=16), ENTRY)
        with pytest.raises(InputTooLong) as caught:
            await backend.embed(job(SHORT, DOUBTFUL, LONG, truncation=REFUSE))
        assert caught.value.field == field


async def test_the_number_is_counted_in_the_whole_job(fakes: Fakes, backends: Backends) -> None:
    backend = backends(fakes("fledge", max_tokens=16), ENTRY, limits=(2, 10_000))
    texts = [DOUBTFUL] * 5 + [LONG] + [DOUBTFUL]
    with pytest.raises(InputTooLong, match=r"`items\[5\]`"):
        await backend.embed(job(*texts, truncation=REFUSE))


async def test_with_a_tokenizer_at_hand_nothing_is_sent_that_is_too_long(
    fakes: Fakes, backends: Backends
) -> None:
    for flavour in PRESET_OF:
        fake = fakes(flavour, max_tokens=16)
        with pytest.raises(InputTooLong, match=r"`items\[1\]` has 32 tokens; org/name takes"):
            await backends(fake, ENTRY, count_tokens=count).embed(
                job(DOUBTFUL, LONG, truncation=REFUSE)
            )
        assert fake.requests == []


@pytest.mark.parametrize("flavour", REFUSING)
async def test_what_always_refuses_cannot_be_asked_to_cut(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour, max_tokens=16)
    with pytest.raises(CannotCarry, match="far cannot be told to cut") as caught:
        await backends(fake, ENTRY).embed(job(SHORT, LONG, truncation=CUT))
    assert caught.value.field == "items[1]"
    result = await backends(fake, ENTRY).embed(job(DOUBTFUL, truncation=CUT))
    assert result.truncated == [False], "since it was not refused"


@pytest.mark.parametrize("flavour", CUTTING)
async def test_what_cuts_without_a_word_is_not_asked_where_nothing_may_be_cut(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour, max_tokens=16)
    backend = backends(fake, ENTRY)
    for truncation in (REFUSE, Truncation(side="left")):
        with pytest.raises(CannotCarry, match="without saying so") as caught:
            await backend.embed(job(SHORT, DOUBTFUL, truncation=truncation))
        assert caught.value.field == "items[1]"
    assert fake.requests == []
    result = await backend.embed(job(SHORT, truncation=REFUSE))
    assert result.truncated == [False]


@pytest.mark.parametrize("flavour", CUTTING)
async def test_of_what_cuts_without_a_word_it_is_said_what_may_have_been_cut(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    backend = backends(fakes(flavour, max_tokens=16), ENTRY)
    result = await backend.embed(job(SHORT, LONG, DOUBTFUL, truncation=CUT))
    assert np.allclose(result.vectors[1], vector_of(first_words(LONG)), atol=1e-6)
    assert result.truncated == [False, True, True]


async def test_fewer_tokens_than_the_model_takes_can_be_asked_of_nobody(
    fakes: Fakes, backends: Backends
) -> None:
    fewer = Truncation(max_tokens=9)
    for flavour in PRESET_OF:
        backend = backends(fakes(flavour, max_tokens=16), ENTRY)
        with pytest.raises(CannotCarry, match="more than 9 tokens, and far cannot be told"):
            await backend.embed(
                job(DOUBTFUL, truncation=fewer),
            )
        result = await backend.embed(job("a", truncation=fewer))
        assert result.truncated == [False]
        result = await backend.embed(job(SHORT, truncation=Truncation(max_tokens=16)))
        assert result.truncated == [False], "as many as it takes are no fewer"


async def test_where_nobody_knows_how_many_tokens_a_model_takes_its_provider_does(
    fakes: Fakes, backends: Backends
) -> None:
    entry = ModelEntry(id="org/name")
    for flavour in ASKED + REFUSING:
        backend = backends(fakes(flavour, max_tokens=16), entry)
        result = await backend.embed(job(DOUBTFUL, truncation=CUT))
        assert result.truncated == [False]
        with pytest.raises(InputTooLong) as caught:
            await backend.embed(job(LONG, truncation=REFUSE))
        assert caught.value.field == "items[0]"
    for flavour in CUTTING:
        result = await backends(fakes(flavour, max_tokens=16), entry).embed(job(DOUBTFUL))
        assert result.truncated == [True], "for all that is known"


async def test_a_provider_that_still_refuses_what_it_was_told_to_cut_has_refused(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes("tei", max_tokens=16)
    fake.always(says_json(422, {"error": "`inputs` must have less than 16 tokens. Given: 32"}))
    with pytest.raises(ProviderRefused, match="far answered 422"):
        await backends(fake, ENTRY).embed(job(LONG, truncation=CUT))
    assert len(fake.requests) == 2


async def test_ids_are_counted_as_they_are(fakes: Fakes, backends: Backends) -> None:
    backend = backends(fakes("openai", max_tokens=16), ENTRY)
    with pytest.raises(InputTooLong, match=r"`items\[1\]` has 17 tokens"):
        await backend.embed(job([1] * 16, [1] * 17, truncation=REFUSE))


async def test_far_too_many_tokens_are_not_sent_to_be_counted(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes("openai", max_tokens=100_000)
    entry = ModelEntry(id="org/name", dimension=8, max_seq_length=100_000)
    with pytest.raises(TooManyInputs, match="about 1251 tokens in all; at most 500"):
        await backends(fake, entry).embed(job("word " * 999, max_total_tokens=500))
    with pytest.raises(TooManyInputs, match="have 1001 tokens in all"):
        await backends(fake, entry, count_tokens=count).embed(
            job("word " * 999, max_total_tokens=1000)
        )
    assert fake.requests == []
    await backends(fake, entry).embed(job("word " * 999, max_total_tokens=1100))


@pytest.mark.parametrize("flavour", ["openai", "cohere", "tei", "hf-inference"])
async def test_token_ids_that_would_be_taken_for_others_are_refused(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour)
    if flavour == "openai":
        assert len((await backends(fake).embed(job([1, 2]))).vectors) == 1
        return
    with pytest.raises(CannotCarry, match=r"`items\[1\]` is a list of token ids") as caught:
        await backends(fake).embed(job("a", [1, 2]))
    assert caught.value.field == "items[1]"
    assert fake.requests == []


async def test_half_a_character_is_refused_by_its_number(fakes: Fakes, backends: Backends) -> None:
    with pytest.raises(InvalidRequest, match=r"`items\[1\]` is not valid Unicode") as caught:
        await backends(fakes()).embed(job("a", "\ud800"))
    assert caught.value.field == "items[1]"


async def test_a_default_prompt_is_not_put_twice(fakes: Fakes, backends: Backends) -> None:
    entry = ModelEntry(
        id="org/name", dimension=8, prompts={"query": "q: "}, default_prompt_name="query"
    )
    fake = fakes("hf-inference", default_prompt="q: ")
    result = await backends(fake, entry).embed(job("a", prompt="q: "))
    assert np.allclose(result.vectors[0], vector_of("q: a"), atol=1e-6)
    for prompt in ("other: ", None):
        with pytest.raises(CannotCarry, match="puts the default prompt of org/name"):
            await backends(fake, entry).embed(job("a", prompt=prompt))


async def test_a_provider_does_not_show_tokens(fakes: Fakes, backends: Backends) -> None:
    with pytest.raises(CannotCarry):
        await backends(fakes()).tokenize(["a"])


@given(st.text(max_size=40), st.text(max_size=10))
def test_no_text_has_more_tokens_than_are_allowed_for(text: str, prompt: str) -> None:
    """By the most that any tokenizer makes of it: each byte, of it or of what it is made into."""
    (sized,) = lengths.measure(
        [text.encode("utf-8", "replace").decode()], prompt.encode("utf-8", "replace").decode()
    )
    whole = str(sized.item)
    assert sized.size_bytes == len(whole.encode())
    normalizers: list[Callable[[str], str]] = [str, str.lower, str.casefold]
    assert all(len(one(whole)) <= sized.most_tokens for one in normalizers)


@given(st.lists(st.integers(1, 10_000), min_size=1), st.integers(0, 10**6))
def test_tokens_are_spread_without_losing_one(weights: list[int], more: int) -> None:
    total = len(weights) + more
    shares = lengths.spread(total, weights)
    assert sum(shares) == total
    assert min(shares) >= 1
    for (one, weight), (other, heavier) in zip(
        zip(shares, weights, strict=True), list(zip(shares, weights, strict=True))[1:], strict=False
    ):
        if weight < heavier:
            assert one <= other + 1
