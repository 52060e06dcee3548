"""What is known of models before they are loaded: told without I/O, and refused by what is sure."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fledge.catalog.shipped import shipped_entries
from fledge.engine import cpu, folders
from fledge.engine.cpu import ChosenPrecision
from fledge.engine.lifecycle.lifecycle import Lifecycle
from fledge.engine.lifecycle.ports import LifecycleOptions, Memory
from fledge.engine.loader import LocalLoader
from fledge.engine.memory import least_bytes, model_bytes
from fledge.engine.recipe import Recipe
from fledge.engine.routes import RunningModel
from fledge.engine.sources import ModelFolder
from fledge.types import ModelEntry, Precision
from tests.tiny import save_bert
from tests.unit.engine.lifecycle.fakes import FakeModel

GB = 10**9


class Files:
    """The names of the files that were opened while somebody watched."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self._is_watching = False
        sys.addaudithook(self._note)  # which stays for ever

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._is_watching and event in {"open", "os.listdir", "os.scandir"}:
            self.opened.append(str(arguments[0]))

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._is_watching = True
        try:
            yield
        finally:
            self._is_watching = False


def load_fake(source: ModelFolder, recipe: Recipe, precision: Precision) -> RunningModel:
    assert (recipe.model_type, precision) == ("bert", "auto")
    return FakeModel(source.id, lambda: None)


def make_loader() -> LocalLoader:
    return LocalLoader(
        load_transformer=load_fake, precision_of=lambda _: "auto", max_queued_tokens=1000
    )


@pytest.mark.skipif(sys.platform == "win32", reason="what is opened there is not known")
def test_the_status_of_every_model_of_the_catalogue_is_told_without_opening_a_file(
    tmp_path: Path,
) -> None:
    warm = ModelEntry(id="warm", folder=save_bert(tmp_path / "warm"), parameters=10**6)
    lifecycle = Lifecycle(
        make_loader(), LifecycleOptions(budget_bytes=GB), memory=Memory(lambda: 0, lambda: None)
    )
    lifecycle.load_now(warm)
    entries = [warm, *shipped_entries()]
    files = Files()
    with files.watched():
        statuses = [lifecycle.status(entry) for entry in entries]
    assert files.opened == []
    assert [one.state for one in statuses] == ["warm"] + ["cold"] * len(shipped_entries())
    assert any(one.remaining_s for one in statuses)
    asyncio.run(lifecycle.aclose())


def test_a_model_on_this_machine_is_not_judged_by_its_size_but_by_its_headers(
    tmp_path: Path,
) -> None:
    entry = ModelEntry(id="here", folder=save_bert(tmp_path / "here"), parameters=10**12)
    loader = make_loader()
    found = loader.find(entry, lambda _: pytest.fail("no download is to be judged"))
    precision = cpu.choose_precision("auto", cpu.detect()).chosen
    assert found.needed_bytes == model_bytes(found.folder.path, precision)
    assert found.size_bytes == folders.size_bytes(found.folder.path)


@pytest.mark.parametrize(
    ("parameters", "precision", "measured_bytes"),
    [
        (470_926_848, "bf16", 355_000_000),  # LaBSE, four fifths of it a table
        (22_713_216, "fp32", 90_000_000),  # all-MiniLM-L6-v2
        (7_567_295_488, "bf16", 12 * GB),  # Qwen3-Embedding-8B's numbers, but for the table
    ],
)
def test_the_least_that_a_model_takes_is_no_more_than_it_takes(
    parameters: int, precision: ChosenPrecision, measured_bytes: int
) -> None:
    assert least_bytes(parameters, precision) < measured_bytes * 1.2


def test_a_download_that_is_plainly_too_large_is_known_by_the_size_of_its_files() -> None:
    assert least_bytes(30 * GB // 4, "bf16") > 12 * GB  # seven thousand million numbers
