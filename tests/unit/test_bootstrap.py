"""Settings -> objects, with an engine that loads nothing."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fledge import bootstrap
from fledge.engine import hub, sources
from fledge.errors import SettingsError
from fledge.settings import load_settings
from fledge.testing import FakeBackend, fake_card


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


def test_the_hub_s_state_tells_that_there_is_a_token_and_not_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    state = bootstrap.hub_state()

    assert isinstance(state, hub.HubState)
    assert state.has_token
    assert "hf_secret" not in str(state)
