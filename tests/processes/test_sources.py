"""Finding a model's files. The hub's scenarios run in a process each, against a hub on loopback:
huggingface_hub reads its environment when it is imported."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, scan_cache_dir

from fledge.engine import folders, hub, sources
from fledge.errors import CorruptModel, ModelLoadError, ModelNotFound, ModelOffline
from fledge.settings import DEFAULT_MODEL
from tests.processes.fake_hub import COMMIT, REPOSITORY, FakeHub
from tests.unit.engine.tiny_model import OLD, SAFE, TINY, WEIGHTS, write

SOURCE = Path(__file__).parents[2] / "src"
LARGE_WEIGHTS = bytes(range(256)) * 94_000
"""More than twice what huggingface_hub writes at once (10 MB)."""

LARGE = {**TINY, "model.safetensors": LARGE_WEIGHTS}

SCRIPT = """
import json, sys
from fledge.engine import sources
from fledge.errors import FledgeError
answers = []
for call, model in json.loads(sys.argv[1]):
    try:
        found = getattr(sources, call)(model)
    except FledgeError as error:
        answers.append({"error": type(error).__name__, "message": str(error),
                        "chained": error.__cause__ is not None})
    else:
        answers.append({"path": str(found.path), "id": found.id, "revision": found.revision,
                        "origin": found.origin})
answers.append(sorted(name for name in sys.modules if name in ("torch", "transformers")))
print(json.dumps(answers))
"""


def environment(home: Path, endpoint: str, **extra: str) -> dict[str, str]:
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        and not name.lower().endswith("_proxy")
        and name not in {"DISABLE_TELEMETRY", "DO_NOT_TRACK"}
    }
    return {
        **ours,
        "PYTHONPATH": str(SOURCE),
        "NO_PROXY": "127.0.0.1",
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        **extra,
    }


def command(*calls: tuple[str, str]) -> list[str]:
    return [sys.executable, "-c", SCRIPT, json.dumps(calls)]


def run(env: dict[str, str], *calls: tuple[str, str]) -> list[dict[str, Any]]:
    """The answers of `sources.CALL(MODEL)` for each call, made in one new process."""
    done = subprocess.run(
        command(*calls), env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    *answers, heavy = json.loads(done.stdout)
    assert heavy == []
    return list(answers)


def files_of(folder: str) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the hub -------------------------------------------------------------------------------------


def test_a_download_takes_what_a_model_needs_and_the_next_find_asks_nothing(tmp_path: Path) -> None:
    with FakeHub(TINY) as fake:
        env = environment(tmp_path, fake.url, HF_TOKEN="hf_dummy")
        (first,) = run(env, ("find_by_id", REPOSITORY))
        asked = list(fake.requests)
        (second,) = run(env, ("find_by_id", REPOSITORY))
        assert len(fake.requests) == len(asked)
    assert first["revision"] == COMMIT
    assert first["origin"] == f"downloaded from {fake.url}"
    assert files_of(first["path"]) == {
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    assert (Path(first["path"]) / "model.safetensors").read_bytes() == WEIGHTS
    assert second == {**first, "origin": "the Hugging Face cache"}
    assert {request.headers.get("authorization") for request in asked} == {"Bearer hf_dummy"}
    assert len([r for r in asked if r.method == "GET" and r.path.endswith(".safetensors")]) == 1
    assert not [request for request in asked if "agent" in request.path]
    assert not [request for request in asked if "torch" in request.headers["user-agent"]]


def test_a_connection_that_breaks_is_continued_where_it_broke(tmp_path: Path) -> None:
    with FakeHub(LARGE, cut=frozenset({"model.safetensors"})) as fake:
        (found,) = run(environment(tmp_path, fake.url), ("find_by_id", REPOSITORY))
    ranges = [r.headers.get("range") for r in fake.asked("GET", "/model.safetensors")]
    assert ranges == [None, f"bytes={constants.DOWNLOAD_CHUNK_SIZE}-"]
    assert (Path(found["path"]) / "model.safetensors").read_bytes() == LARGE_WEIGHTS


def test_a_process_that_is_stopped_leaves_a_part_that_the_next_one_continues(
    tmp_path: Path,
) -> None:
    with FakeHub(LARGE, hold=frozenset({"model.safetensors"})) as fake:
        env = environment(tmp_path, fake.url)
        with subprocess.Popen(
            command(("find_by_id", REPOSITORY)),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as stopped:
            assert fake.arrived_in_the_middle.wait(30)
            wait_for_part(tmp_path)
            stopped.send_signal(signal.SIGINT)
            stopped.communicate(timeout=30)
        (found,) = run(env, ("find_by_id", REPOSITORY))
    ranges = [r.headers.get("range") for r in fake.asked("GET", "/model.safetensors")]
    assert ranges == [None, f"bytes={constants.DOWNLOAD_CHUNK_SIZE}-"]
    assert (Path(found["path"]) / "model.safetensors").read_bytes() == LARGE_WEIGHTS
    assert list(tmp_path.rglob("*.incomplete")) == []


def test_weights_that_are_not_what_the_hub_announced_are_refused_and_thrown_away(
    tmp_path: Path,
) -> None:
    with FakeHub(TINY) as fake:
        env = environment(tmp_path, fake.url)
        repository = tmp_path / "hub" / "models--acme--tiny"
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        write(repository / "blobs", {f"{digest}.incomplete": bytes(1_000_000)})
        refused, found = run(env, ("find_by_id", REPOSITORY), ("find_by_id", REPOSITORY))
    assert refused["error"] == "CorruptModel"
    assert digest in refused["message"]
    assert (Path(found["path"]) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "ModelNotFound"),
        (401, {"X-Error-Code": "RepoNotFound"}, "ModelNotFound"),
        (404, {}, "ModelNotFound"),
        (401, {"X-Error-Code": "GatedRepo"}, "ModelGated"),
        (403, {"X-Error-Code": "GatedRepo"}, "ModelGated"),
        (403, {}, "ModelGated"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            "ModelGated",
        ),
        (503, {}, "ModelOffline"),
        (418, {}, "ModelLoadError"),
    ],
)
def test_a_refusal_of_the_hub_becomes_the_error_that_says_what_to_do(
    tmp_path: Path,
    status: int,
    headers: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub({}, refusal=(status, headers)) as fake:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        api = HfApi(endpoint=fake.url, token=False)
        monkeypatch.setattr(hub, "HfApi", lambda **_: api)
        huggingface_hub.close_session()  # whose proxies were read from the environment
        with pytest.raises(ModelLoadError) as caught:
            sources.find_by_id(REPOSITORY)
        huggingface_hub.close_session()
    assert type(caught.value).__name__ == expected
    assert REPOSITORY in str(caught.value)
    assert caught.value.__cause__ is not None


def test_out_of_reach_the_error_says_what_to_do_and_the_cache_still_serves(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{closed_port()}"
    snapshot = cache_snapshot(tmp_path, TINY)
    refused, cached = run(
        environment(tmp_path, nowhere), ("find_by_id", "acme/other"), ("find_by_id", REPOSITORY)
    )
    assert refused["error"] == "ModelOffline"
    assert refused["chained"]
    assert nowhere in refused["message"]
    assert cached["path"] == str(snapshot)


def test_offline_nothing_is_asked_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    incomplete = {name: TINY[name] for name in ("config.json", "tokenizer.json")}
    cache_snapshot(tmp_path, incomplete)
    with FakeHub(TINY) as fake:
        env = environment(tmp_path, fake.url, HF_HUB_OFFLINE="1")
        found, pulled = run(env, ("find_by_id", REPOSITORY), ("pull", REPOSITORY))
        assert fake.requests == []
    for answer in (found, pulled):
        assert answer["error"] == "ModelOffline"
        for advice in ("HF_HUB_OFFLINE", f"fledge pull {REPOSITORY}", "HF_HOME", "a folder"):
            assert advice in answer["message"]


def test_a_partial_snapshot_is_completed(tmp_path: Path) -> None:
    cache_snapshot(tmp_path, {"config.json": TINY["config.json"]})
    with FakeHub(TINY) as fake:
        (found,) = run(environment(tmp_path, fake.url), ("find_by_id", REPOSITORY))
    assert folders.what_is_missing(Path(found["path"])) is None


def test_an_older_repository_is_downloaded_with_its_torch_file_and_found_again(
    tmp_path: Path,
) -> None:
    dense = {"2_Dense/config.json": b"{}", "2_Dense/pytorch_model.bin": b"x" * 100}
    with FakeHub({**OLD, **dense, "training_args.bin": b"code"}) as fake:
        env = environment(tmp_path, fake.url)
        (first,) = run(env, ("find_by_id", REPOSITORY))
        asked = len(fake.requests)
        (second,) = run(env, ("find_by_id", REPOSITORY))
        assert len(fake.requests) == asked
    assert second["path"] == first["path"]
    assert {name for name in files_of(first["path"]) if name.endswith(".bin")} == {
        "pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
    }


def test_a_repository_without_weights_is_refused_before_anything_is_downloaded(
    tmp_path: Path,
) -> None:
    other = {name: content for name, content in OLD.items() if name != "pytorch_model.bin"}
    with FakeHub({**other, "tf_model.h5": b"another framework's"}) as fake:
        (refused,) = run(environment(tmp_path, fake.url), ("find_by_id", REPOSITORY))
    assert refused["error"] == "UnsupportedModel"
    assert "neither model.safetensors nor pytorch_model.bin" in refused["message"]
    assert not [request for request in fake.requests if "/resolve/" in request.path]


def test_telemetry_is_off_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    with pytest.raises(ModelOffline):
        hub.download("acme/absent")
    assert constants.HF_HUB_DISABLE_TELEMETRY is False
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    with pytest.raises(ModelOffline):
        hub.download("acme/absent")
    assert constants.HF_HUB_DISABLE_TELEMETRY is True


def wait_for_part(home: Path) -> None:
    """Until what the hub sent is in the part's file, not only on its way."""
    for _ in range(1000):
        parts = list(home.rglob("*.incomplete"))
        if parts and parts[0].stat().st_size > 0:
            return
        time.sleep(0.02)
    pytest.fail("no part was written")


def cache_snapshot(home: Path, files: dict[str, bytes]) -> Path:
    """The model in a cache folder, as tools that fetch file by file leave it."""
    repository = home / "hub" / "models--acme--tiny"
    write(repository / "refs", {"main": COMMIT.encode()})
    return write(repository / "snapshots" / COMMIT, files)


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_is_found_by_its_path_and_served_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "my-model", TINY)
    monkeypatch.chdir(tmp_path)
    for spelled in (str(folder), "./my-model", "my-model", "my-model/"):
        found = sources.local(spelled)
        assert found is not None
        assert (found.path, found.id) == (folder, "my-model")
    monkeypatch.chdir(folder)
    here = sources.local(".")
    assert here is not None
    assert here.id == "my-model"


@pytest.mark.parametrize("model", ["./gone", "../gone", "/gone/model", "~/gone-model", "gone\\m"])
def test_a_path_that_leads_nowhere_is_named_in_full(model: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        sources.local(model)
    assert str(Path(model).expanduser().absolute()) in str(caught.value)


@pytest.mark.parametrize("model", ["~nobody-here", "/" + "x" * 9999])
def test_no_name_whatever_breaks_the_search(model: str) -> None:
    with pytest.raises(ModelNotFound):
        sources.local(model)


@pytest.mark.parametrize("model", ["", "a/b/c", "two words", "acme/-tiny", "x" * 97])
def test_what_cannot_be_an_id_is_refused_without_asking(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "download", lambda model: pytest.fail("asked the hub"))
    with pytest.raises(ModelNotFound, match="neither an existing folder nor a possible id"):
        sources.find_by_id(model)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"without config\.json"):
        sources.local(str(tmp_path))


# --- the default model's package ----------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package like the real one, with other weights, that must not be imported."""
    monkeypatch.setattr(hub, "cached", lambda model: None)
    monkeypatch.setattr(hub, "cached_models", list)
    monkeypatch.setattr(sources, "PACKAGE_MODULE", "a_packaged_model")
    monkeypatch.setattr(sources, "PACKAGE_WEIGHTS_SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, {"a_packaged_model/__init__.py": b"raise ImportError('imported')"})
    return write(tmp_path / "a_packaged_model" / "model", TINY)


def test_the_default_model_comes_from_its_package(package: Path) -> None:
    found = sources.find_by_id(DEFAULT_MODEL)
    assert (found.path, found.id) == (package, DEFAULT_MODEL)
    assert "package" in found.origin


def test_a_package_with_other_weights_is_refused_with_both_digests(package: Path) -> None:
    (package / "model.safetensors").write_bytes(b"other")
    with pytest.raises(CorruptModel) as caught:
        sources.find_by_id(DEFAULT_MODEL)
    assert sources.PACKAGE_WEIGHTS_SHA256 in str(caught.value)
    assert hashlib.sha256(b"other").hexdigest() in str(caught.value)


@pytest.mark.usefixtures("package")
def test_the_package_serves_no_other_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelOffline):
        sources.find_by_id("acme/tiny")


def test_models_on_this_machine_are_listed_with_their_sizes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cache_snapshot(tmp_path, TINY)
    monkeypatch.setattr(hub, "cached_models", lambda: [(REPOSITORY, snapshot)])
    listed = sources.available()
    assert [entry.folder.id for entry in listed] == [DEFAULT_MODEL, REPOSITORY]
    used = folders.select(TINY)
    assert listed[1].size_bytes == sum(len(TINY[name]) for name in used)


def test_the_cache_lists_whole_models_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # Its default was read from the environment when it was imported.
    monkeypatch.setattr(hub, "scan_cache_dir", lambda: scan_cache_dir(tmp_path / "hub"))
    assert hub.cached_models() == []
    snapshot = cache_snapshot(tmp_path, SAFE)
    assert hub.cached_models() == [(REPOSITORY, snapshot)]
    (snapshot / "model.safetensors").unlink()
    assert hub.cached_models() == []
