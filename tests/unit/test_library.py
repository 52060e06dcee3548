import asyncio
import subprocess
import sys
import threading
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

import fledge
from fledge.errors import EmptyInput, InputTooLong, InvalidRequest, SettingsError, UnknownPrompt
from fledge.library import Model, without_limits
from fledge.settings import load_settings
from fledge.testing import FakeBackend, fake_card
from fledge.types import Vectors
from fledge.vectors import normalize

DIMENSION = 8


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def model(backend: FakeBackend) -> Generator[Model, None, None]:
    with make_model(backend) as model:
        yield model


def make_model(backend: FakeBackend) -> Model:
    return Model(backend, without_limits(load_settings()))


def unit(vectors: Vectors) -> Vectors:
    return normalize(np.atleast_2d(vectors)).reshape(vectors.shape)


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of ten texts, so that a short list has many."""
    monkeypatch.setattr("fledge.files.ordered.CHUNK_ITEMS", 10)
    monkeypatch.setattr("fledge.library.CHUNK_ITEMS", 10)


def test_the_public_names_are_these() -> None:
    assert sorted(fledge.__all__) == [
        "FledgeError",
        "InvalidRequest",
        "Model",
        "ModelCard",
        "ModelLoadError",
        "Ranked",
        "SettingsError",
        "__version__",
        "load",
    ]
    assert all(hasattr(fledge, name) for name in fledge.__all__)


def test_one_text_gives_one_vector(model: Model) -> None:
    vector = model.embed("one")

    assert vector.shape == (DIMENSION,)
    assert vector.dtype == np.float32


def test_a_list_gives_a_row_for_each_text_in_order(model: Model) -> None:
    vectors = model.embed(["one", "two", "one"])

    assert vectors.shape == (3, DIMENSION)
    np.testing.assert_array_equal(vectors[0], model.embed("one"))
    np.testing.assert_array_equal(vectors[1], model.embed("two"))
    np.testing.assert_array_equal(vectors[2], vectors[0])


def test_a_list_of_one_text_is_a_list(model: Model) -> None:
    assert model.embed(["one"]).shape == (1, DIMENSION)


def test_an_empty_list_gives_no_rows(model: Model) -> None:
    assert model.embed([]).shape == (0, DIMENSION)
    assert model.embed([], dimensions=3).shape == (0, 3)


def test_any_sequence_of_texts_will_do(model: Model) -> None:
    expected = model.embed(["one", "two"])

    np.testing.assert_array_equal(model.embed(("one", "two")), expected)
    np.testing.assert_array_equal(model.embed(list(np.array(["one", "two"]))), expected)


def test_token_ids_are_one_input_and_lists_of_them_many(model: Model, backend: FakeBackend) -> None:
    assert model.embed([5, 6, 7]).shape == (DIMENSION,)
    assert model.embed([[5, 6, 7], [8]]).shape == (2, DIMENSION)
    np.testing.assert_array_equal(model.embed([5, 6, 7]), model.embed([[5, 6, 7]])[0])
    np.testing.assert_allclose(model.embed([[5, 6]])[0], unit(backend.vector([5, 6])), rtol=1e-6)
    assert model.embed([list(np.array([5, 6]))]).shape == (1, DIMENSION)


def test_normalization_is_the_model_s_unless_asked(backend: FakeBackend) -> None:
    raw = FakeBackend(fake_card(normalizes=False))
    with make_model(backend) as normalizing, make_model(raw) as plain:
        assert np.linalg.norm(normalizing.embed("one")) == pytest.approx(1, abs=1e-6)
        assert np.linalg.norm(normalizing.embed("one", normalize=False)) != pytest.approx(1)
        assert np.linalg.norm(plain.embed("one")) != pytest.approx(1)
        assert np.linalg.norm(plain.embed("one", normalize=True)) == pytest.approx(1, abs=1e-6)


def test_dimensions_cut_then_normalize(model: Model) -> None:
    cut = model.embed("one", dimensions=3)

    np.testing.assert_allclose(cut, unit(model.embed("one")[:3]), rtol=1e-6)


def test_dimensions_out_of_range_are_an_error(model: Model) -> None:
    with pytest.raises(InvalidRequest, match="`dimensions` is 9"):
        model.embed("one", dimensions=9)


def test_a_prompt_goes_before_each_text(model: Model) -> None:
    np.testing.assert_array_equal(
        model.embed("one", prompt_name="query"), model.embed("query: one")
    )
    with pytest.raises(UnknownPrompt, match="query, document"):
        model.embed("one", prompt_name="poem")


def test_a_text_of_ones_own_goes_before_each_text(model: Model, backend: FakeBackend) -> None:
    prompt = "Instruct: search\nQuery: "

    np.testing.assert_array_equal(model.embed("one", prompt=prompt), model.embed(prompt + "one"))
    np.testing.assert_array_equal(model.embed([5, 6], prompt=prompt), model.embed([5, 6]))
    with pytest.raises(InvalidRequest, match="`prompt` and `prompt_name` cannot both apply"):
        model.embed("one", prompt=prompt, prompt_name="query")
    with pytest.raises(InvalidRequest, match="`prompt` is not valid Unicode"):
        model.embed("one", prompt="\ud800")


def test_an_input_type_picks_the_prompt_and_the_side(model: Model, backend: FakeBackend) -> None:
    for input_type in ("query", "document"):
        np.testing.assert_array_equal(
            model.embed("one", input_type=input_type), model.embed(f"{input_type}: one")
        )
        assert backend.jobs[-2].side == input_type
    with pytest.raises(InvalidRequest, match='`input_type` is "poem"; known are query,'):
        model.embed("one", input_type="poem")


def test_aembed_takes_the_same_choices_of_a_prompt(model: Model) -> None:
    async def vectors() -> list[Vectors]:
        return [
            await model.aembed("one", prompt="query: "),
            await model.aembed("one", prompt_name="query"),
            await model.aembed("one", input_type="query"),
        ]

    for vector in asyncio.run(vectors()):
        np.testing.assert_array_equal(vector, model.embed("query: one"))


def test_a_long_prompt_before_many_texts_is_no_request_too_large(model: Model) -> None:
    assert model.embed(["one"] * 1000, prompt="x" * 40_000).shape == (1000, DIMENSION)


def test_a_long_text_is_cut_on_the_side_asked_for(model: Model, backend: FakeBackend) -> None:
    words = " ".join(map(str, range(30)))
    model.embed(words, truncation_direction="left")

    assert backend.jobs[-1].truncation.side == "left"
    with pytest.raises(InputTooLong, match="`texts`"):
        model.embed(words, truncate=False)


def test_an_empty_text_is_an_error_that_names_it(model: Model) -> None:
    with pytest.raises(EmptyInput, match=r"`texts\[1\]` is an empty text"):
        model.embed(["one", ""])
    with pytest.raises(EmptyInput, match="`texts` is an empty text"):
        model.embed("")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "`texts` is None"),
        (b"hello", "`texts` is of type bytes"),
        (bytearray(b"hello"), "`texts` is of type bytearray"),
        ([bytearray(b"one")], r"`texts\[0\]` is of type bytearray"),
        (["one", None], r"`texts\[1\]` is None"),
        ([1.5], r"`texts\[0\]` is of type float"),
        ([b"one"], r"`texts\[0\]` is of type bytes"),
        ([True], r"`texts\[0\]` is of type bool"),
    ],
)
def test_what_is_no_text_is_an_error_that_names_it(
    model: Model, texts: object, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        model.embed(texts)  # type: ignore[arg-type] # the point of it


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"dimensions": "5"}, "`dimensions` is of type str; give a whole number"),
        ({"dimensions": 2.5}, "`dimensions` is of type float; give a whole number"),
        ({"dimensions": True}, "`dimensions` is of type bool; give a whole number"),
        ({"prompt_name": 5}, "`prompt_name` is of type int; give a text"),
        ({"prompt": b"query: "}, "`prompt` is of type bytes; give a text, or None"),
        ({"input_type": 5}, "`input_type` is of type int; give a text"),
        ({"truncation_direction": "up"}, "`truncation_direction` is 'up'; give \"left\" or"),
        ({"truncation_direction": 1}, '`truncation_direction` is of type int; give "left" or'),
    ],
)
def test_an_argument_of_another_kind_is_an_error_that_names_it(
    model: Model, backend: FakeBackend, argument: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        model.embed("one", **argument)
    assert backend.jobs == []


def test_a_whole_number_of_numpy_is_one(model: Model) -> None:
    dimensions = np.int64(3)

    assert model.embed("one", dimensions=dimensions).shape == (3,)  # type: ignore[arg-type] # so


@pytest.mark.parametrize(("side", "meant"), [("Right", "right"), ("LEFT", "left")])
def test_a_side_may_be_written_in_any_case(
    model: Model, backend: FakeBackend, side: Any, meant: str
) -> None:
    model.embed("one", truncation_direction=side)

    assert backend.jobs[-1].truncation.side == meant


@pytest.mark.usefixtures("_small_chunks")
def test_a_long_list_is_computed_in_chunks_and_equals_a_short_one(
    model: Model, backend: FakeBackend
) -> None:
    texts = [f"text {number}" for number in range(95)]
    vectors = model.embed(texts, dimensions=5)

    assert [len(job.items) for job in backend.jobs] == [10] * 9 + [5]
    assert {job.priority for job in backend.jobs} == {1}
    np.testing.assert_array_equal(
        vectors, np.stack([model.embed(text, dimensions=5) for text in texts])
    )


@pytest.mark.usefixtures("_small_chunks")
def test_an_empty_text_far_down_is_found_before_anything_is_computed(
    model: Model, backend: FakeBackend
) -> None:
    with pytest.raises(EmptyInput, match=r"`texts\[57\]`"):
        model.embed(["one"] * 57 + [""])
    assert backend.jobs == []


@pytest.mark.usefixtures("_small_chunks")
def test_an_error_in_a_later_chunk_names_its_text(model: Model) -> None:
    texts = ["one"] * 23 + ["word " * 30]

    with pytest.raises(InputTooLong, match=r"`texts\[20:\]\[3\]`"):
        model.embed(texts, truncate=False)


def test_more_texts_than_a_request_may_carry_are_fine(model: Model) -> None:
    assert model.embed(["one"] * 5000).shape == (5000, DIMENSION)


def test_aembed_gives_what_embed_gives(model: Model) -> None:
    async def both() -> tuple[Vectors, Vectors]:
        one, many = await asyncio.gather(model.aembed("one"), model.aembed(["one", "two"]))
        return one, many

    one, many = asyncio.run(both())
    np.testing.assert_array_equal(one, model.embed("one"))
    np.testing.assert_array_equal(many, model.embed(["one", "two"]))


def test_embed_works_where_a_loop_is_running_already(model: Model) -> None:
    async def notebook_cell() -> Vectors:
        return model.embed("one")

    assert asyncio.run(notebook_cell()).shape == (DIMENSION,)


def test_embed_works_from_many_threads_on_one_loop(model: Model) -> None:
    shapes: list[tuple[int, ...]] = []
    threads = [
        threading.Thread(target=lambda: shapes.append(model.embed("one").shape)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert shapes == [(DIMENSION,)] * 8
    assert [thread.name for thread in threading.enumerate()].count("fledge-library") == 1


def test_cancelling_aembed_takes_its_work_off_the_queue(model: Model, backend: FakeBackend) -> None:
    async def give_up() -> None:
        backend.hold()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await model.aembed("one")

    asyncio.run(give_up())
    assert backend.cancelled == 1


def test_similarity_is_a_matrix_of_texts_or_vectors(model: Model) -> None:
    scores = model.similarity(["a", "b"], ["a", "b", "c"])
    same = model.similarity(model.embed(["a", "b"]), model.embed(["a", "b", "c"]))

    assert scores.shape == (2, 3)
    assert scores[0, 0] == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(scores, same)
    assert model.similarity("a", model.embed("b")).shape == (1, 1)


def test_vectors_of_another_width_cannot_be_compared(model: Model) -> None:
    with pytest.raises(InvalidRequest, match=r"\(1, 8\) and \(2, 3\)"):
        model.similarity("a", np.zeros((2, 3), np.float32))


def test_rerank_sorts_and_remembers_the_places(model: Model) -> None:
    ranking = model.rerank("b", ["a", "b", "c"])

    assert (ranking[0].index, ranking[0].document) == (1, "b")
    assert ranking[0].score == pytest.approx(1, abs=1e-5)
    assert [one.score for one in ranking] == sorted((r.score for r in ranking), reverse=True)
    assert model.rerank("b", ["a", "b", "c"], top_n=2) == ranking[:2]
    assert model.rerank("b", []) == []


@pytest.mark.usefixtures("_small_chunks")
def test_rerank_takes_more_documents_than_a_chunk(model: Model) -> None:
    documents = [f"document {number}" for number in range(35)]

    assert model.rerank("document 33", documents)[0].index == 33


def test_rerank_uses_the_prompts_it_is_given(model: Model, backend: FakeBackend) -> None:
    model.rerank("q", ["d"], prompt_name="query", document_prompt_name="document")

    assert {job.prompt for job in backend.jobs} == {"query: ", "document: "}


def test_rerank_takes_every_choice_of_a_prompt_for_either_part(
    model: Model, backend: FakeBackend
) -> None:
    model.rerank("q", ["d"], input_type="query", document_input_type="document")
    model.rerank("q", ["d"], prompt="q: ", document_prompt="d: ")

    assert [(job.prompt, job.side) for job in backend.jobs] == [
        ("query: ", "query"),
        ("document: ", "document"),
        ("q: ", "query"),
        ("d: ", "document"),
    ]


@pytest.mark.parametrize(
    ("query", "documents", "options", "message"),
    [
        ("q", "abc", {}, "`documents` is of type str; give a list of texts"),
        ("q", None, {}, "`documents` is None; give a list of texts"),
        ("q", ["a", 1], {}, r"`documents\[1\]` is of type int; give a text"),
        (1, ["a"], {}, "`query` is of type int; give a text"),
        ("q", ["a"], {"top_n": "1"}, "`top_n` is of type str; give a whole number"),
        ("q", ["a"], {"document_prompt_name": 5}, "`document_prompt_name` is of type int"),
        ("q", ["a"], {"document_input_type": "no"}, '`document_input_type` is "no"; known are'),
    ],
)
def test_rerank_refuses_what_cannot_be_ranked(
    model: Model, query: Any, documents: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        model.rerank(query, documents, **options)


def test_rerank_takes_documents_that_can_be_read_once_only(model: Model) -> None:
    documents: Any = iter(["a", "b"])

    assert model.rerank("b", documents)[0].document == "b"


def test_no_best_documents_are_an_error(model: Model) -> None:
    with pytest.raises(InvalidRequest, match="`top_n` is 0"):
        model.rerank("b", ["a"], top_n=0)


def test_closing_closes_the_backend_once_and_for_all(backend: FakeBackend) -> None:
    model = make_model(backend)
    model.close()
    model.close()

    assert backend.is_closed
    with pytest.raises(RuntimeError, match="is closed"):
        model.embed("one")


def test_the_repr_says_which_model_it_is(backend: FakeBackend) -> None:
    with make_model(backend) as model:
        assert repr(model) == "<fledge.Model fledge/fake, fp32, dimension 8>"
    assert repr(model) == "<fledge.Model fledge/fake, fp32, dimension 8, closed>"


def test_a_wrong_precision_is_an_error_before_anything_is_loaded() -> None:
    with pytest.raises(SettingsError, match="precision"):
        fledge.load(precision="fp8")  # type: ignore[arg-type] # the point of it


@pytest.mark.parametrize("ending", ["", "model.close()"])
def test_a_program_ends_whether_or_not_it_closed_its_model(ending: str) -> None:
    script = "\n".join(
        [
            "from fledge.library import Model",
            "from fledge.settings import Settings",
            "from fledge.testing import FakeBackend",
            "model = Model(FakeBackend(), Settings())",
            "print(model.embed('one').shape)",
            ending,
        ]
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )

    assert result.stdout == "(8,)\n"
    assert result.stderr == ""
