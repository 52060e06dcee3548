"""Settings -> objects, with an engine that loads nothing."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fledge import bootstrap
from fledge.engine import hub, routes, sources
from fledge.errors import CorruptModel, SettingsError
from fledge.settings import load_settings
from fledge.testing import FakeBackend, fake_card
from fledge.types import ModelCard


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Builds a service of these models; gives the ids that it serves."""

    def load_backend(source: sources.ModelFolder, **_: Any) -> FakeBackend:
        return FakeBackend(fake_card(id=source.id))

    engine = {
        "sources": sources,
        "lane": SimpleNamespace(Lane=lambda **_: None),
        "loading": SimpleNamespace(load_backend=load_backend),
    }
    monkeypatch.setattr(bootstrap, "_engine", engine.__getitem__)

    def build(*models: Path | str) -> list[str]:
        settings = load_settings(models=tuple(map(str, models)))
        return [card.id for card in bootstrap.build_service(settings).cards()]

    return build


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_a_model_that_is_named_twice_is_served_once(
    served: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    monkeypatch.chdir(tmp_path)

    assert served(one, "./one", two, tmp_path / "two" / ".." / "one") == ["one", "two"]


def test_two_models_of_one_id_are_an_error_that_names_both(
    served: Callable[..., list[str]], tmp_path: Path
) -> None:
    one, other = folder(tmp_path / "a" / "model"), folder(tmp_path / "b" / "model")

    with pytest.raises(SettingsError, match="served as model; rename one of the folders") as caught:
        served(one, other)
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)


class Stubborn(FakeBackend):
    """Counts how often it was closed, and may fail to."""

    def __init__(self, card: ModelCard, *, error: Exception | None = None) -> None:
        super().__init__(card)
        self.closed = 0
        self._error = error

    def close(self) -> None:
        self.closed += 1
        if self._error is not None:
            raise self._error


def test_models_loaded_before_one_that_fails_are_closed_even_if_one_cannot_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = [folder(tmp_path / name) for name in ("one", "two", "three")]
    loaded = [
        Stubborn(fake_card(id="one")),
        Stubborn(fake_card(id="two"), error=OSError("stuck")),
    ]
    waiting = list(loaded)

    def load_backend(_: sources.ModelFolder, **__: Any) -> Stubborn:
        if not waiting:
            raise CorruptModel("damaged")
        return waiting.pop(0)

    engine = {
        "sources": sources,
        "lane": SimpleNamespace(Lane=lambda **_: None),
        "loading": SimpleNamespace(load_backend=load_backend),
        "routes": routes,
    }
    monkeypatch.setattr(bootstrap, "_engine", engine.__getitem__)
    with pytest.raises(OSError, match="stuck"):
        bootstrap.build_service(load_settings(models=tuple(map(str, paths))))
    assert [one.closed for one in loaded] == [1, 1]


def test_the_hub_s_state_tells_that_there_is_a_token_and_not_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    state = bootstrap.hub_state()

    assert isinstance(state, hub.HubState)
    assert state.has_token
    assert "hf_secret" not in str(state)
