"""Settings -> objects, with an engine that loads nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fledge import bootstrap
from fledge.accounts.keys import KeySpec
from fledge.engine import hub, sources
from fledge.errors import CorruptModel, ModelNotFound, SettingsError
from fledge.service import Service
from fledge.settings import Settings
from fledge.stores import opened_keys
from fledge.testing import FakeBackend, fake_card
from fledge.types import ModelCard


class Closable(FakeBackend):
    """Counts how often it was closed, and may fail to."""

    def __init__(self, card: ModelCard, *, error: Exception | None = None) -> None:
        super().__init__(card)
        self.closed = 0
        self._error = error

    def close(self) -> None:
        self.closed += 1
        if self._error is not None:
            raise self._error


class Engine:
    """Loads what a test says, and remembers it.

    Attributes:
        loaded: the backends, in the order in which they were loaded.
        errors: model id -> what loading it, or closing it, raises.
    """

    def __init__(self) -> None:
        self.loaded: list[Closable] = []
        self.load_errors: dict[str, Exception] = {}
        self.close_errors: dict[str, Exception] = {}

    def load_backend(self, source: sources.ModelFolder, **_: Any) -> Closable:
        if source.id in self.load_errors:
            raise self.load_errors[source.id]
        self.loaded.append(
            Closable(fake_card(id=source.id), error=self.close_errors.get(source.id))
        )
        return self.loaded[-1]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    fake = Engine()
    # Accounts of the test's own.
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setattr("fledge.engine.loader.load_backend", fake.load_backend)
    monkeypatch.setattr("fledge.engine.memory.model_bytes", lambda *_: 1_000_000)
    return fake


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def build(*models: Path | str, **settings: Any) -> Service:
    return bootstrap.build_service(Settings(models=tuple(map(str, models)), **settings))


def warm(service: Service) -> list[str]:
    return [one.id for one in service.models() if one.status.state == "warm"]


def test_the_models_that_are_named_are_loaded_and_the_catalogue_is_cold(
    engine: Engine, tmp_path: Path
) -> None:
    service = build(folder(tmp_path / "one"))
    assert warm(service) == ["one"]
    assert service.model(None).id == "one"
    assert service.model("bge-m3").status.state == "cold"


def test_without_preload_nothing_is_loaded(engine: Engine, tmp_path: Path) -> None:
    service = build(folder(tmp_path / "one"), preload=False)
    assert warm(service) == []
    assert service.model(None).id == "one"


def test_without_the_shipped_catalogue_only_what_is_named_is_served(
    engine: Engine, tmp_path: Path
) -> None:
    folder(tmp_path / "models" / "own")
    service = build(folder(tmp_path / "one"), catalog="none", models_dir=tmp_path / "models")
    assert [one.id for one in service.models()] == ["one", "own"]


def test_a_model_may_be_named_by_an_alias_or_by_its_folder_in_models_dir(
    engine: Engine, tmp_path: Path
) -> None:
    folder(tmp_path / "models" / "own")
    service = build("own", "BGE-M3", preload=False, models_dir=tmp_path / "models")
    assert [one.id for one in service.models()][:2] == ["own", "BAAI/bge-m3"]


def test_a_model_that_is_named_twice_is_served_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    monkeypatch.chdir(tmp_path)

    assert warm(build(one, "./one", two, tmp_path / "two" / ".." / "one")) == ["one", "two"]


def test_two_models_of_one_id_are_an_error_that_names_both(engine: Engine, tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a" / "model"), folder(tmp_path / "b" / "model")

    with pytest.raises(SettingsError, match="served as model; rename the folder") as caught:
        build(one, other)
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)


def test_models_loaded_before_one_that_fails_are_closed_even_if_one_cannot_be(
    engine: Engine, tmp_path: Path
) -> None:
    paths = [folder(tmp_path / name) for name in ("one", "two", "three")]
    engine.close_errors["two"] = OSError("stuck")
    engine.load_errors["three"] = CorruptModel("damaged")

    with pytest.raises(CorruptModel, match="damaged"):
        build(*paths)
    assert [one.closed for one in engine.loaded] == [1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pinned": ("nobody",)}, "pinned: the model .nobody. is not served here"),
        ({"model": {"nobody": {"pinned": True}}}, "model: the model .nobody. is not served"),
        ({"models_dir": Path("no/such/folder")}, "models_dir: there is no folder no/such/folder"),
    ],
)
def test_a_setting_about_a_model_that_is_not_there_is_refused(
    engine: Engine, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        build(folder(tmp_path / "one"), **settings)


def test_all_names_that_lead_nowhere_are_told_at_once(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        build(
            folder(tmp_path / "one"), pinned=("nobody", "no one"), model={"none": {"pinned": True}}
        )
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["pinned", "pinned", "model"]


def test_pinning_and_sections_take_any_name_of_a_model(engine: Engine, tmp_path: Path) -> None:
    service = build(
        folder(tmp_path / "one"),
        pinned=("BGE-m3", "all-minilm"),
        model={"ALL-MINILM-L6-V2": {"pinned": False}},
    )
    assert service.model("BAAI/bge-m3").status.is_pinned
    assert not service.model("all-minilm-l6-v2").status.is_pinned


def test_a_section_s_precision_counts_under_any_name_of_its_model(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def model_bytes(_: Path, precision: str) -> int:
        asked.append(precision)
        return 1_000

    monkeypatch.setattr("fledge.engine.memory.model_bytes", model_bytes)
    build(folder(tmp_path / "One"), precision="fp32", model={"ONE": {"precision": "int8"}})
    assert asked == ["int8"]


def test_two_sections_about_one_model_are_refused(engine: Engine, tmp_path: Path) -> None:
    sections = {"all-minilm": {"pinned": True}, "all-MiniLM-L6-v2": {"pinned": False}}
    with pytest.raises(SettingsError, match="'all-minilm' and 'all-MiniLM-L6-v2' are both"):
        build(folder(tmp_path / "one"), model=sections)


def test_a_name_that_is_neither_a_folder_nor_an_id_is_refused_before_any_load(
    engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound):
        build(folder(tmp_path / "one"), "no such model!")
    assert engine.loaded == []


def test_one_model_alone_is_loaded_without_a_catalogue(engine: Engine, tmp_path: Path) -> None:
    model = bootstrap.load_model(Settings(models=(str(folder(tmp_path / "one")),)))
    assert model.card.id == "one"


def test_no_model_at_all_is_refused() -> None:
    builders: list[Callable[[Settings], object]] = [bootstrap.load_model, bootstrap.build_service]
    for builder in builders:
        with pytest.raises(SettingsError, match="models is empty"):
            builder(Settings(models=()))


def test_the_hub_s_state_tells_that_there_is_a_token_and_not_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    state = bootstrap.hub_state()

    assert isinstance(state, hub.HubState)
    assert state.has_token
    assert "hf_secret" not in str(state)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104
def test_an_address_that_others_reach_needs_a_key_or_no_auth(
    engine: Engine, tmp_path: Path, host: str
) -> None:
    folder(tmp_path / "one")
    with pytest.raises(SettingsError, match="since there is no key yet"):
        build(tmp_path / "one", host=host)
    assert engine.loaded == []

    assert warm(build(tmp_path / "one", host=host, no_auth=True)) == ["one"]
    with opened_keys(Settings()) as store:
        store.create(KeySpec(name="team"))
    assert warm(build(tmp_path / "one", host=host)) == ["one"]


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost", "::1"])
def test_loopback_needs_no_key(engine: Engine, tmp_path: Path, host: str) -> None:
    assert warm(build(folder(tmp_path / "one"), host=host)) == ["one"]


def test_a_provider_that_nobody_knows_is_told_before_what_it_has(
    engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="did you mean nebius"):
        build(folder(tmp_path / "one"), providers={"enabled": ("nebus",)})
    assert engine.loaded == []
