"""Models that cannot be loaded: each kind is told apart, remembered, and harms nobody else."""

import json
import os
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.processes.fake_hub import REPOSITORY, FakeHub
from tests.servers import Server, serving
from tests.tiny import save_bert, save_tokenizer

WEIGHTS = "model.safetensors"


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut_weights(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def boast_of_a_header(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + content[8:])


def reach_beyond_the_file(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = next(name for name in header if name != "__metadata__")
    header[name]["data_offsets"][1] += 2**40
    new = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])


def lose_a_column(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "encoder.layer.0.attention.self.query.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])
    save_file(tensors, folder / WEIGHTS)


def hide_a_nan(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["encoder.layer.1.output.dense.weight"][3, 3] = np.nan
    save_file(tensors, folder / WEIGHTS)


def scribble(folder: Path) -> None:
    (folder / "config.json").write_text("{ not json")


def scribble_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(os.urandom(1000))


class Payload:
    """Unpickled by a careless reader, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def become_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    content = pickle.dumps({"embeddings": Payload(folder.parent / "executed")}, protocol=2)
    (folder / "pytorch_model.bin").write_bytes(content)


def bring_code(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text(
        f"import os; os.mkdir({str(folder.parent / 'executed')!r})\n"
    )
    auto_map = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.EvilConfig"}
    change_config(folder, model_type="evil", auto_map=auto_map)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut-weights": (cut_weights, "corrupt"),
    "header-of-exabytes": (boast_of_a_header, "corrupt"),
    "tensor-beyond-the-file": (reach_beyond_the_file, "corrupt"),
    "wrong-shape": (lose_a_column, "corrupt"),
    "nan-in-weights": (hide_a_nan, "corrupt"),
    "another-tokenizer": (lambda folder: save_tokenizer(folder, 5000), "corrupt"),
    "config-is-no-json": (scribble, "corrupt"),
    "tokenizer-is-noise": (scribble_tokenizer, "corrupt"),
    "pickle-with-code": (become_a_pickle, "unsupported"),
    "code-beside-it": (bring_code, "unsupported"),
    "unknown-family": (lambda folder: change_config(folder, model_type="t5"), "unsupported"),
}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_bert(folder / "fine")
    for name, (damage, _) in DAMAGES.items():
        damage(save_bert(folder / name))
    return folder


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, "fine", models_dir=models_dir) as server:
        yield server


def embed(server: Server, model: str) -> httpx2.Response:
    return httpx2.post(
        f"{server.url}/v1/embeddings",
        json={"model": model, "input": "w5 w6"},
        timeout=60,
        trust_env=False,
    )


def entry(server: Server, model: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{server.url}/v1/models/{model}", trust_env=False).json()
    return found


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (_, kind) in DAMAGES.items()])
def test_damaged_or_hostile_files_are_a_failed_load_with_its_reason(
    server: Server, models_dir: Path, name: str, kind: str
) -> None:
    answer = embed(server, name)

    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert error["code"] == f"model_{kind}"
    assert str(models_dir) not in error["message"], "no path of the server's machine"
    assert int(answer.headers["retry-after"]) > 1
    shown = entry(server, name)
    assert (shown["status"], shown["error"]["kind"]) == ("failed", kind)
    assert not (models_dir / "executed").exists(), "code of the repository was run"
    assert embed(server, "fine").status_code == 200
    health = httpx2.get(f"{server.url}/health", trust_env=False)
    assert health.status_code == 200, "a model that is damaged keeps nobody from using others"


def test_a_failure_is_remembered_until_somebody_asks_for_another_try(
    server: Server, models_dir: Path
) -> None:
    name = "mended"
    cut_weights(save_bert(models_dir / name))
    time.sleep(1.1)  # the folder of models is looked through once a second
    first = embed(server, name)
    save_bert(models_dir / name)

    again = embed(server, name)
    assert first.status_code == again.status_code == 503
    loaded = httpx2.post(f"{server.url}/admin/models/{name}/load", timeout=60, trust_env=False)
    assert loaded.status_code == 200, loaded.text
    assert embed(server, name).status_code == 200


def test_a_model_that_can_never_fit_is_refused_at_once_with_both_numbers(
    models_dir: Path, tmp_path: Path
) -> None:
    with serving(
        tmp_path, "fine", models_dir=models_dir, preload=False, memory_budget_bytes="1MB"
    ) as server:
        answer = embed(server, "fine")

        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_out_of_memory"
        message = answer.json()["error"]["message"]
        assert "memory_budget_bytes" in message
        assert message.count("MB") + message.count("MiB") >= 2, message


@pytest.fixture
def hub_files(tmp_path: Path) -> dict[str, bytes]:
    folder = save_bert(tmp_path / "tiny")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        ((401, {"X-Error-Code": "GatedRepo"}), 503, "model_gated"),
        ((404, {"X-Error-Code": "RepoNotFound"}), 404, "model_files_not_found"),
        ((500, {}), 503, "model_offline"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(
    models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: tuple[int, dict[str, str]],
    status: int,
    code: str,
) -> None:
    with FakeHub({}, refusal=refusal) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with serving(tmp_path, "fine", models_dir=models_dir, online=True) as server:
            answer = embed(server, REPOSITORY)
            asked = len(hub.requests)
            again = embed(server, REPOSITORY)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert (again.status_code, again.json()) == (status, answer.json())
    assert len(hub.requests) == asked, "a failure is remembered: the hub is not asked again"


def test_offline_is_told_apart(server: Server) -> None:
    answer = embed(server, "acme/not-here")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_offline")


def test_any_model_of_the_hub_joins_when_it_is_asked_for(
    models_dir: Path,
    tmp_path: Path,
    hub_files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeHub(hub_files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with serving(tmp_path / "home", "fine", models_dir=models_dir, online=True) as server:
            assert embed(server, REPOSITORY).status_code == 200
            assert entry(server, REPOSITORY)["status"] == "warm"
        with serving(
            tmp_path / "closed", "fine", models_dir=models_dir, online=True, allow_any_model=False
        ) as server:
            asked = len(hub.requests)
            assert embed(server, REPOSITORY).status_code == 404
            assert len(hub.requests) == asked
