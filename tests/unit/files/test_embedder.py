"""Whole files: what is written, and what survives an interrupt."""

import asyncio
import json
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.errors import FileFormatError
from fledge.files import embedder
from fledge.files.embedder import embed_file, ignore_progress
from fledge.files.formats import make_encoder, open_source, output_format
from fledge.files.progress import Identity, progress_path
from fledge.files.report import Report
from fledge.files.sinks import PartialFile
from tests.unit.files.fakes import DIMENSION, FakeEmbedder, Interrupted, vector_of

CHUNK = 10
TEXTS = [f"text number {number}" for number in range(95)]
IDENTITY: Identity = {"model": "fledge/fake", "revision": "1"}
OUTPUTS = ["out.jsonl", "out.npy", "out.parquet"]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of ten rows, so that a small file has many."""
    monkeypatch.setattr("fledge.files.ordered.CHUNK_ITEMS", CHUNK)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TEXTS))
    return path


def run(
    embed: FakeEmbedder,
    source: Path,
    output: Path,
    *,
    identity: Identity = IDENTITY,
    overwrite: bool = False,
    on_progress: embedder.OnProgress = ignore_progress,
) -> Report:
    sink = PartialFile(output, make_encoder(output_format(output), DIMENSION))
    job = embed_file(
        embed,
        open_source(source),
        sink,
        identity=identity,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    return asyncio.run(job)


def interrupt(source: Path, output: Path, *, after: int = 45) -> FakeEmbedder:
    embed = FakeEmbedder(fail_after=after)
    with pytest.raises(Interrupted):
        run(embed, source, output)
    return embed


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"in.txt"}


def test_json_lines_have_each_text_and_its_vector_in_order(source: Path, tmp_path: Path) -> None:
    run(FakeEmbedder(), source, tmp_path / "out.jsonl")

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == [{"text": text, "embedding": vector_of(text)} for text in TEXTS]


def test_npy_is_an_array_that_numpy_loads_and_maps(source: Path, tmp_path: Path) -> None:
    run(FakeEmbedder(), source, tmp_path / "out.npy")

    array = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [vector_of(text) for text in TEXTS])


def test_parquet_has_each_text_and_its_vector_in_order(source: Path, tmp_path: Path) -> None:
    run(FakeEmbedder(), source, tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    assert table.to_pydict() == {"text": TEXTS, "embedding": [vector_of(text) for text in TEXTS]}
    assert pa.types.is_float32(table.schema.field("embedding").type.value_type)


def test_parquet_is_written_in_groups_of_bounded_size(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.files.parquet.ROW_GROUP_BYTES", 1000)
    run(FakeEmbedder(), source, tmp_path / "out.parquet")

    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert file.num_row_groups > 1
    assert file.read().column("text").to_pylist() == TEXTS


def test_empty_rows_are_null_and_keep_their_place(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('"a"\n""\n{"text": null}\n"  "\n"b"\n')
    report = run(FakeEmbedder(), tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    run(FakeEmbedder(), tmp_path / "in.jsonl", tmp_path / "out.parquet")

    expected = [vector_of("a"), None, None, None, vector_of("b")]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert (report.rows, report.embedded, report.empty) == (5, 2, 3)
    assert [line["embedding"] for line in lines] == expected
    assert [line["text"] for line in lines] == ["a", "", None, "  ", "b"]
    assert table == {"text": ["a", "", None, "  ", "b"], "embedding": expected}


def test_empty_rows_are_zeros_in_npy(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n\n")
    report = run(FakeEmbedder(), tmp_path / "in.txt", tmp_path / "out.npy")

    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), [vector_of("a"), [0, 0, 0, 0]])
    assert report.empty == 1


@pytest.mark.parametrize("name", OUTPUTS)
def test_chunks_of_nothing_but_empty_rows_are_written_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "in.txt").write_text("\n" * 25)
    embed = FakeEmbedder()

    assert run(embed, tmp_path / "in.txt", tmp_path / name).empty == 25
    assert embed.computed == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_empty_input_makes_an_empty_output(tmp_path: Path, name: str) -> None:
    (tmp_path / "in.txt").write_text("")
    output = tmp_path / name

    assert run(FakeEmbedder(), tmp_path / "in.txt", output).rows == 0
    if name == "out.npy":
        assert np.load(output).shape == (0, DIMENSION)
    elif name == "out.parquet":
        assert pq.read_table(output).num_rows == 0
    else:
        assert output.read_bytes() == b""


def test_truncated_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("short\n" + "long " * 20 + "\n")

    assert run(FakeEmbedder(), tmp_path / "in.txt", tmp_path / "out.jsonl").truncated == 1


def test_several_chunks_are_in_flight_and_no_more_than_two(source: Path, tmp_path: Path) -> None:
    embed = FakeEmbedder()
    run(embed, source, tmp_path / "out.jsonl")

    assert embed.most_in_flight == 2


def test_progress_is_told_after_each_chunk(source: Path, tmp_path: Path) -> None:
    told: list[int] = []
    run(
        FakeEmbedder(),
        source,
        tmp_path / "out.jsonl",
        on_progress=lambda report: told.append(report.rows),
    )

    assert told == [*range(CHUNK, len(TEXTS), CHUNK), len(TEXTS)]


@pytest.mark.parametrize("name", OUTPUTS)
def test_nothing_but_the_output_is_left(source: Path, tmp_path: Path, name: str) -> None:
    run(FakeEmbedder(), source, tmp_path / name)

    assert files(tmp_path) == {name}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_unfinished_output_does_not_have_the_name_of_the_output(
    source: Path, tmp_path: Path, name: str
) -> None:
    interrupt(source, tmp_path / name)

    assert files(tmp_path) == {f"{name}.fledge-partial", f"{name}.fledge-progress"}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_resumed_output_equals_an_uninterrupted_one_byte_for_byte(
    source: Path, tmp_path: Path, name: str
) -> None:
    run(FakeEmbedder(), source, tmp_path / f"whole-{name}")
    interrupt(source, tmp_path / name)
    report = run(FakeEmbedder(), source, tmp_path / name)

    assert report.rows == len(TEXTS)
    assert report.resumed > 0
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


def test_a_resumed_run_computes_nothing_that_was_written(source: Path, tmp_path: Path) -> None:
    first = interrupt(source, tmp_path / "out.jsonl")
    second = FakeEmbedder()
    report = run(second, source, tmp_path / "out.jsonl")

    assert second.computed == TEXTS[report.resumed :]
    assert len(first.computed) - report.resumed <= 2 * CHUNK


def test_a_run_may_be_interrupted_again_and_again(source: Path, tmp_path: Path) -> None:
    for _ in range(3):
        interrupt(source, tmp_path / "out.jsonl", after=25)
    report = run(FakeEmbedder(), source, tmp_path / "out.jsonl")

    assert report.rows == len(TEXTS)
    assert (tmp_path / "out.jsonl").read_text().count("\n") == len(TEXTS)


def test_the_report_of_a_resumed_run_counts_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n".join(["", "long " * 20, *TEXTS]))
    interrupt(tmp_path / "in.txt", tmp_path / "out.jsonl")
    report = run(FakeEmbedder(), tmp_path / "in.txt", tmp_path / "out.jsonl")

    assert (report.rows, report.empty, report.truncated) == (len(TEXTS) + 2, 1, 1)


@pytest.mark.parametrize("name", OUTPUTS)
def test_bytes_after_the_last_recorded_row_are_cut_away(
    source: Path, tmp_path: Path, name: str
) -> None:
    """As when the process dies between writing rows and recording them."""
    run(FakeEmbedder(), source, tmp_path / f"whole-{name}")
    interrupt(source, tmp_path / name)
    with (tmp_path / f"{name}.fledge-partial").open("ab") as file:
        file.write(b"half a row")
    run(FakeEmbedder(), source, tmp_path / name)

    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_crash_while_finishing_is_mended(
    source: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: Path, target: Path) -> None:
        if target.name == name:
            raise Interrupted
        self.rename(target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crash)
        with pytest.raises(Interrupted):
            run(FakeEmbedder(), source, tmp_path / name)
    run(FakeEmbedder(), source, tmp_path / f"whole-{name}")
    embed = FakeEmbedder()
    run(embed, source, tmp_path / name)

    assert embed.computed == []
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


def test_a_finished_output_is_not_overwritten_unless_asked(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("precious\n")

    with pytest.raises(FileFormatError, match=r"out.jsonl exists; pass --overwrite"):
        run(FakeEmbedder(), source, output)
    assert output.read_text() == "precious\n"
    assert run(FakeEmbedder(), source, output, overwrite=True).rows == len(TEXTS)


def test_the_old_output_stays_until_the_new_one_is_complete(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("precious\n")
    with pytest.raises(Interrupted):
        run(FakeEmbedder(fail_after=30), source, output, overwrite=True)

    assert output.read_text() == "precious\n"
    assert run(FakeEmbedder(), source, output, overwrite=True).resumed > 0


def test_a_run_with_another_model_does_not_continue(source: Path, tmp_path: Path) -> None:
    interrupt(source, tmp_path / "out.jsonl")
    other = {**IDENTITY, "revision": "2"}

    with pytest.raises(FileFormatError, match=r"revision was '1', now '2'.*--overwrite"):
        run(FakeEmbedder(), source, tmp_path / "out.jsonl", identity=other)
    report = run(FakeEmbedder(), source, tmp_path / "out.jsonl", identity=other, overwrite=True)
    assert report.resumed == 0


def test_a_run_that_failed_at_once_is_not_in_the_way(source: Path, tmp_path: Path) -> None:
    interrupt(source, tmp_path / "out.jsonl", after=0)

    assert run(FakeEmbedder(), source, tmp_path / "out.jsonl", identity={}).resumed == 0


def test_a_run_over_a_changed_input_does_not_continue(source: Path, tmp_path: Path) -> None:
    interrupt(source, tmp_path / "out.jsonl")
    source.write_text("\n".join(["new", *TEXTS]))

    with pytest.raises(FileFormatError, match=r"size was .*--overwrite"):
        run(FakeEmbedder(), source, tmp_path / "out.jsonl")


def test_a_partial_file_that_was_cut_does_not_continue(source: Path, tmp_path: Path) -> None:
    interrupt(source, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl.fledge-partial").write_bytes(b"")

    with pytest.raises(FileFormatError, match=r"shorter than it was.*--overwrite"):
        run(FakeEmbedder(), source, tmp_path / "out.jsonl")


def test_a_damaged_record_does_not_continue(source: Path, tmp_path: Path) -> None:
    interrupt(source, tmp_path / "out.jsonl")
    progress_path(tmp_path / "out.jsonl").write_text("{")

    with pytest.raises(FileFormatError, match=r"damaged.*--overwrite"):
        run(FakeEmbedder(), source, tmp_path / "out.jsonl")
    assert run(FakeEmbedder(), source, tmp_path / "out.jsonl", overwrite=True).resumed == 0


def test_a_record_without_its_partial_file_starts_again(source: Path, tmp_path: Path) -> None:
    interrupt(source, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl.fledge-partial").unlink()

    assert run(FakeEmbedder(), source, tmp_path / "out.jsonl").resumed == 0


def test_a_bad_row_far_down_keeps_what_came_before(source: Path, tmp_path: Path) -> None:
    source.write_bytes("\n".join(TEXTS[:50]).encode() + b"\n\xff\n")

    with pytest.raises(FileFormatError, match="line 51"):
        run(FakeEmbedder(), source, tmp_path / "out.jsonl")
    assert progress_path(tmp_path / "out.jsonl").exists()


def test_an_output_in_no_folder_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="nowhere does not exist"):
        run(FakeEmbedder(), source, tmp_path / "nowhere" / "out.jsonl")


def test_an_ending_that_is_not_known_is_an_error() -> None:
    with pytest.raises(FileFormatError, match=r"'.xml'; writable: .jsonl"):
        output_format(Path("out.xml"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    with source.open("w") as file:
        file.writelines(f"{number} {'x' * 20_000}\n" for number in range(2000))
    embed = FakeEmbedder()
    embed.computed = Forgetful()
    tracemalloc.start()
    try:
        run(embed, source, output)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert source.stat().st_size > 40_000_000
    assert peak < 8_000_000


class Forgetful(list[str]):
    """A list that does not keep what it is given."""

    def extend(self, values: Iterable[str]) -> None:
        pass


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "in.parquet").write_bytes(b"")

    with pytest.raises(FileFormatError, match=r"pip install pyarrow"):
        open_source(tmp_path / "in.parquet")
    with pytest.raises(FileFormatError, match=r"pip install pyarrow"):
        make_encoder("parquet", DIMENSION)
