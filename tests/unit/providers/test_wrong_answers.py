"""Providers that answer wrongly, half, slowly or not at all: an error at once, never a vector."""

import time
from typing import Any

import pytest

from fledge.errors import DeadlineExceeded, ProviderUnavailable
from fledge.providers import asking
from tests.providers import troubles
from tests.providers.troubles import Trouble, altered, says
from tests.providers.wire import Flavour
from tests.unit.providers.conftest import ENTRY, PRESET_OF, Backends, Fakes, job

pytestmark = pytest.mark.anyio


def with_first(value: Any) -> Trouble:
    """The first vector, or what is in its place."""

    def change(answer: Any) -> Any:
        answer["data"][0]["embedding"] = value
        return answer

    return altered(change)


def with_both(*values: Any) -> Trouble:
    return altered(lambda _: {"data": [{"embedding": value} for value in values]})


def with_number(text: bytes) -> Trouble:
    def change(answer: Any) -> bytes:
        numbers = b",".join([text] + [b"0.5"] * 7)
        return b'{"data":[{"embedding":[%b],"index":0},{"embedding":[%b],"index":1}]}' % (
            numbers,
            numbers,
        )

    return altered(change)


def without(name: str) -> Trouble:
    return altered(lambda answer: {key: value for key, value in answer.items() if key != name})


WRONG: dict[str, tuple[Trouble, str]] = {
    "NaN": (with_number(b"NaN"), "not JSON"),
    "Infinity": (with_number(b"Infinity"), "not JSON"),
    "beyond float32": (with_number(b"1e39"), "not finite"),
    "beyond float64": (with_number(b"1e400"), "not"),
    "null": (with_number(b"null"), "not a number"),
    "a number as a text": (with_number(b'"0.5"'), "not a number"),
    "a huge integer": (with_number(b"9" * 400), "not"),
    "true": (with_both([True] * 8, [False] * 8), "not a number"),
    "a vector of texts": (with_both(["0.5"] * 8, ["0.5"] * 8), "not a number"),
    "vectors of two kinds": (with_first([0.5] * 8), "a text where a vector belongs"),
    "an empty vector": (with_first([]), "a list where a vector belongs"),
    "null for a vector": (with_first(None), "null where a vector belongs"),
    "an object for a vector": (with_first({"a": 1}), "an object where a vector belongs"),
    "vectors of different lengths": (with_both([0.5] * 8, [0.5] * 7), "different lengths"),
    "a vector for each token": (with_both([[0.5] * 8] * 2, [[0.5] * 8] * 2), "for each token"),
    "ragged vectors of tokens": (with_both([[0.5], [0.5] * 2], [[0.5]] * 2), "different lengths"),
    "base64 that is none": (altered(lambda answer: {"data": [{"embedding": "%"}] * 2}), "base64"),
    "base64 beyond ASCII": (altered(lambda answer: {"data": [{"embedding": "é"}] * 2}), "base64"),
    "base64 of no floats": (altered(lambda a: {"data": [{"embedding": "AAAA"}] * 2}), "3 bytes"),
    "base64 of other lengths": (with_first("AAAAAA=="), "different lengths"),
    "base64 of NaN": (altered(lambda a: {"data": [{"embedding": "AADAfw=="}] * 2}), "not finite"),
    "one vector for two": (altered(lambda a: a | {"data": a["data"][:1]}), "1 vectors for 2"),
    "three vectors for two": (altered(lambda a: a | {"data": a["data"] * 2}), "4 vectors for 2"),
    "no data": (without("data"), "an object without `data`"),
    "data that is none": (altered(lambda answer: {"data": "AAAA"}), "a text where a list"),
    "no embedding": (altered(lambda answer: {"data": [{}, {}]}), "without `embedding`"),
    "a list of nothing": (altered(lambda answer: {"data": [1, 2]}), "a number without"),
    "the same index twice": (
        altered(lambda a: {"data": [one | {"index": 0} for one in a["data"]]}),
        "`index`",
    ),
    "an index beyond": (
        altered(lambda a: {"data": [one | {"index": 5} for one in a["data"]]}),
        "`index`",
    ),
    "an index that is none": (
        altered(lambda a: {"data": [one | {"index": [one["index"]]} for one in a["data"]]}),
        "`index`",
    ),
    "half the indices": (
        altered(lambda a: {"data": [a["data"][0], {"embedding": a["data"][1]["embedding"]}]}),
        "`index`",
    ),
    "a bare list": (altered(lambda answer: [1, 2]), "a list without `data`"),
    "an error with 200": (altered(lambda a: {"error": {"message": "no"}}), "without `data`"),
    "a page": (troubles.html_200, "a page of HTML"),
    "nothing": (says(200, b""), "an empty body"),
    "no content": (says(204, b""), "an empty body"),
    "not UTF-8": (says(200, b'{"data": "\xff\xfe"}'), "not JSON"),
    "a well of brackets": (says(200, b"[" * 60_000), "not JSON"),
    "half of it": (troubles.half_sent, "broke off"),
    "silence": (troubles.silent, "broke off"),
    "a reset": (troubles.reset, "broke off"),
    "no end": (troubles.endless, "more than"),
    "a terabyte": (troubles.announced_huge, "more than"),
    "a bomb": (troubles.bomb, "more than"),
    "packed strangely": (troubles.brotli, "packed"),
    "not packed after all": (
        says(200, b"{}", content_encoding="gzip"),
        "not packed as it says",
    ),
    "a page of an error": (troubles.html, "far answered 502"),
    "a redirect elsewhere": (
        says(307, "", location="http://elsewhere.test/v1/embeddings"),
        "redirect to another host",
    ),
    "a redirect to another port": (
        says(308, "", location="http://127.0.0.1:1/v1/embeddings"),
        "redirect to another host",
    ),
    "a redirect that would be a GET": (says(302, "", location="/login"), "cannot be followed"),
    "a redirect to nowhere": (says(307, ""), "cannot be followed"),
    "a redirect to itself": (says(307, "", location="/v1/embeddings"), "cannot be followed"),
    "no HTTP": (says(200, b"", content_length="a few"), "broke off"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_answer_is_an_error_that_says_what_came(
    name: str, fakes: Fakes, backends: Backends
) -> None:
    trouble, words = WRONG[name]
    fake = fakes()
    backend = backends(fake)
    fake.always(trouble)
    with pytest.raises(ProviderUnavailable, match=r"^far ") as caught:
        await backend.embed(job("first secret", "second secret"))
    assert words in str(caught.value)
    assert caught.value.provider == "far"
    assert "secret" not in str(caught.value)
    fake.behave()
    assert len((await backend.embed(job("a", "b"))).vectors) == 2, "and goes on working"


SHAPED: list[tuple[Flavour, Any, str]] = [
    ("tei", lambda answer: answer[:1], "1 vectors for 2"),
    ("tei", lambda answer: [answer, answer], "different lengths|one for each token"),
    ("tei", lambda answer: [[row] for row in answer], "one for each token"),
    ("tei", lambda answer: answer[0], "8 vectors for 2"),
    ("tei", lambda answer: {"error": "no"}, "an object where a list"),
    ("tei", lambda answer: [[None] * 8] * 2, "not a number"),
    ("toolkit", lambda answer: {"embeddings": None}, "null where a list"),
    ("hf-inference", lambda answer: [[row, row] for row in answer], "one for each token"),
    ("cohere", lambda answer: {"embeddings": answer["embeddings"]["float"]}, "without `float`"),
    ("cohere", lambda answer: {"embeddings": {"float": [[0.5] * 8]}}, "1 vectors for 2"),
    ("cohere", lambda answer: {"message": "no"}, "without `embeddings`"),
]


@pytest.mark.parametrize(("flavour", "change", "words"), SHAPED)
async def test_each_shape_checks_its_own_answers(
    flavour: Flavour, change: Any, words: str, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour)
    fake.always(altered(change))
    with pytest.raises(ProviderUnavailable, match=words):
        await backends(fake).embed(job("a", "b"))


@pytest.mark.parametrize("flavour", list(PRESET_OF))
@pytest.mark.parametrize("trouble", [troubles.half_sent, troubles.reset, troubles.html_200])
async def test_no_shape_takes_what_is_not_whole(
    flavour: Flavour, trouble: Trouble, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour)
    fake.always(trouble)
    with pytest.raises(ProviderUnavailable):
        await backends(fake).embed(job("a"))


async def test_vectors_of_another_length_than_the_models_are_refused(
    fakes: Fakes, backends: Backends
) -> None:
    with pytest.raises(ProviderUnavailable, match=r"vectors of 16 numbers, .* have 8"):
        await backends(fakes(dimension=16)).embed(job("a"))


async def test_a_length_that_nobody_knew_is_learnt_from_the_first_answer(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(dimension=16)
    backend = backends(fake, type(ENTRY)(id="org/name", max_seq_length=512))
    assert backend.card.dimension == 0
    await backend.embed(job("a"))
    assert backend.card.dimension == 16
    fake.model.dimension = 8
    with pytest.raises(ProviderUnavailable, match="vectors of 8 numbers"):
        await backend.embed(job("a"))


async def test_parts_with_vectors_of_different_lengths_are_refused(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes()
    backend = backends(fake, type(ENTRY)(id="org/name"), limits=(1, 100))
    fake.misbehave(altered(lambda a: {"data": [{"embedding": [0.5] * 7}]}))
    with pytest.raises(ProviderUnavailable, match="different lengths"):
        await backend.embed(job("a", "b"))
    assert backend.card.dimension == 0


async def test_what_is_packed_unasked_is_unpacked(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    fake.always(troubles.packed)
    assert len((await backends(fake).embed(job("a", "b"))).vectors) == 2
    assert fake.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream", ""])
async def test_json_is_known_by_what_it_is_and_not_by_its_label(
    content_type: str, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes()
    fake.always(troubles.mislabelled(content_type))
    assert len((await backends(fake).embed(job("a"))).vectors) == 1


async def test_a_slow_drip_ends_with_the_providers_time(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    fake.always(troubles.drip)
    with pytest.raises(ProviderUnavailable, match=r"far did not answer within 0\.05 s"):
        await backends(fake, timeout_s=0.05).embed(job("a"))


async def test_a_provider_that_does_not_answer_ends_with_its_time(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes()
    fake.hold()
    with pytest.raises(ProviderUnavailable, match=r"far did not answer within 0\.05 s"):
        await backends(fake, timeout_s=0.05).embed(job("a"))
    fake.wait_for_dropped(1)


async def test_a_deadline_ends_it_before_that(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    fake.always(troubles.drip)
    with pytest.raises(DeadlineExceeded, match="far had not answered"):
        await backends(fake).embed(job("a", deadline=time.monotonic() + 0.05))


async def test_nothing_is_sent_after_the_deadline(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    with pytest.raises(DeadlineExceeded):
        await backends(fake).embed(job("a", deadline=time.monotonic() - 1))
    assert fake.requests == []


async def test_nobody_there_is_said_as_such(fakes: Fakes, backends: Backends) -> None:
    backend = backends(fakes(), base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ProviderUnavailable, match=r"far cannot be reached \(ConnectError\)"):
        await backend.embed(job("a"))


async def test_a_path_that_has_moved_on_the_same_server_is_followed(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes()
    fake.misbehave(says(308, "", location="/v2/embeddings"))
    assert len((await backends(fake, key="sk-1").embed(job("a"))).vectors) == 1
    assert [request.path for request in fake.requests] == ["/v1/embeddings", "/v2/embeddings"]
    assert fake.requests[0].body == fake.requests[1].body


async def test_an_answer_of_the_size_that_vectors_have_is_taken(
    fakes: Fakes, backends: Backends
) -> None:
    """Many digits, and white space between them."""

    def spacious(answer: Any) -> bytes:
        number = b"%27.24f,\n    " % 0.5
        row = (number * 4096).rstrip(b", \n")
        assert len(row) < 40 * 4096 + 64 * 1024
        return b'{"data":[{"embedding":[%b],"index":0}]}' % row

    fake = fakes()
    fake.misbehave(altered(spacious))
    entry = type(ENTRY)(id="org/name", dimension=4096)
    assert (await backends(fake, entry).embed(job("a"))).vectors.shape == (1, 4096)


async def test_a_job_is_split_so_that_no_answer_is_larger_than_may_be() -> None:
    for dimension in (8, 1024, 4096, 0):
        count = asking.most_inputs(dimension)
        assert count >= 100
        assert count * (dimension or 16_384) * 40 <= 64 * 2**20
