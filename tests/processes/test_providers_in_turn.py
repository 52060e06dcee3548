"""A real server between its engine and two providers: what fails, and what stays secret."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from fledge.types import Vectors
from tests.processes.keyed_load import DIMENSION, VOCAB, Client, Load, right, text
from tests.processes.keyed_servers import Place
from tests.providers.fakes import fake_provider
from tests.providers.troubles import half_sent, html, reset, says_json, silent
from tests.servers import Server
from tests.static_folders import UNKNOWN, draw

MODEL, THEIR_NAME = "static", "their-static"
KEYS = {"one": "sk-one-7f3a9c1e5b2d", "two": "sk-two-0b8d6e4f2a1c"}
ENOUGH = 20
"""Answers in a row, of which the first few may still be from before."""

_WORD = re.compile(r"w\d+")
storm = says_json(429, {"error": {"message": "Rate limit reached"}}, retry_after="1")
_TABLE = draw(VOCAB, DIMENSION).astype(np.float64)


def vector(item: str, _: int) -> Vectors:
    """That of the model, so that the providers are in its space."""
    ids = [int(word[1:]) if _WORD.fullmatch(word) else UNKNOWN for word in item.split()]
    mean = _TABLE[ids].mean(axis=0)
    whole: Vectors = (mean / np.linalg.norm(mean)).astype(np.float32)
    return whole


class Steady(Load):
    """Clients that take no status but 200 and no vector but the right one.

    Attributes:
        by: how many answers came from each deployment.
    """

    def __init__(self, url: str, secret: str, **choices: Any) -> None:
        super().__init__(url, secret, **choices)
        self.by: Counter[str] = Counter()

    def go_on_at(self, deployment: str) -> None:
        """Wait for answers from there."""
        wanted = self.by[deployment] + ENOUGH
        self.go_on_until(lambda: self.by[deployment] >= wanted)

    def go_on_anywhere(self) -> None:
        """Wait for answers."""
        wanted = self.by.total() + ENOUGH
        self.go_on_until(lambda: self.by.total() >= wanted)

    def _ask(self, client: Client, thread: int, generator: np.random.Generator) -> None:
        first, count = int(generator.integers(300)), int(generator.integers(1, 4))
        numbers = range(first, first + count)
        body = {"input": [text(number) for number in numbers], "model": MODEL}
        reply = client.ask("POST", "/v1/embeddings", body)
        assert reply.status == 200, reply
        np.testing.assert_allclose(vectors_of(reply.body), right(numbers), atol=1e-5)
        self.by[reply.headers["x-fledge-provider"]] += 1


def vectors_of(body: Any) -> Vectors:
    return np.array([one["embedding"] for one in body["data"]], np.float32)


class Stage:
    """Two providers, and a place for servers that ask them.

    Attributes:
        one, two: the providers, in the order in which they are tried.
        place: where servers and keys are.
        secret: a client's key; `admin` is another.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        facts: dict[str, Any] = {"dimension": DIMENSION, "vector": vector}
        self.one = stack.enter_context(fake_provider("openai", **facts))
        self.two = stack.enter_context(fake_provider("openai", **facts))
        self.one.key, self.two.key = KEYS["one"], KEYS["two"]
        self.place = stack.enter_context(Place(folder))
        stack.callback(self.place.stop)
        self.secret = self.place.key("app")
        self.admin = self.place.key("boss", scopes=frozenset({"admin", "inference"}))
        self._file = folder / "static" / "model.safetensors"

    def serve(self, **settings: Any) -> Server:
        """Nothing is kept of an answer, so that each has to be computed."""
        fakes = {"one": self.one, "two": self.two}
        providers = {name: self.section(name, fake.url) for name, fake in fakes.items()}
        chosen: dict[str, Any] = {
            "providers": providers,
            "allow_private_providers": True,
            "cache_memory_bytes": 0,
            "cache_files_bytes": 0,
            "cache_answers_bytes": 0,
            "log_level": "debug",
        }
        return self.place.serve("front", **chosen | settings)

    def chain(self, back: Server, secret: str, **settings: Any) -> Server:
        """A server that asks another one, with a key of that one's."""
        file = self.folder / "back.key"
        file.write_text(secret)
        section = {
            "shape": "fledge",
            "base_url": f"{back.url}/v1",
            "api_key_file": str(file),
            "models": {MODEL: MODEL},
        }
        return self.serve(providers={"back": section}, **settings)

    @staticmethod
    def section(name: str, url: str, **facts: Any) -> dict[str, Any]:
        return {
            "shape": "openai",
            "base_url": url,
            "api_key_env": f"{name.upper()}_KEY",
            "models": {MODEL: THEIR_NAME},
            **facts,
        }

    def break_engine(self, server: Server) -> None:
        """The model leaves, and its file is gone."""
        self._file.rename(self._file.with_suffix(".gone"))
        with self._boss(server) as boss:
            # 202: somebody has asked for it meanwhile, and it is being looked for.
            assert boss.ask("POST", f"/admin/models/{MODEL}/unload").status in (200, 202)

    def mend_engine(self, server: Server) -> None:
        self._file.with_suffix(".gone").rename(self._file)
        with self._boss(server) as boss:
            assert boss.ask("POST", f"/admin/models/{MODEL}/load").status == 200

    def spaces(self, server: Server) -> dict[str, str]:
        """What is known of each provider's space."""
        with self._boss(server) as boss:
            listed = boss.ask("GET", f"/v1/models/{MODEL}").body
        return {one["provider"]: one.get("space", "unknown") for one in listed["providers"]}

    def _boss(self, server: Server) -> Any:
        return closing(Client(server.url, self.admin))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name, key in KEYS.items():
        monkeypatch.setenv(f"{name.upper()}_KEY", key)
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


def test_engine_and_providers_fail_in_turn_and_no_client_sees_an_error(stage: Stage) -> None:
    server = stage.serve()
    with Steady(server.url, stage.secret, threads=3) as load:
        load.go_on_until(lambda: set(stage.spaces(server).values()) == {"same"})
        load.go_on_at("local")
        stage.break_engine(server)
        load.go_on_at("one")
        stage.one.misbehave(half_sent, silent, reset, html, storm)  # and well in between
        load.go_on_anywhere()
        stage.one.always(html)
        load.go_on_at("two")
        stage.two.misbehave(reset, half_sent)
        load.go_on_anywhere()
        stage.mend_engine(server)
        load.go_on_at("local")
        stage.two.always(reset)
        stage.one.behave()
        stage.break_engine(server)
        load.go_on_at("one")
        stage.two.behave()
        stage.one.always(storm)
        load.go_on_at("two")
        stage.one.behave()
        load.go_on_at("one")
        stage.mend_engine(server)
        load.go_on_at("local")
    assert set(load.by) == {"local", "one", "two"}


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"input": ["w5", "w6 w7"]}),
    ("/v1/embeddings", {"input": "w5", "encoding_format": "base64"}),
    ("/v1/embeddings", {"input": "w5 w8", "dimensions": 5}),
    ("/v1/embeddings", {"input": "w5 w9", "normalize": False}),
    ("/v1/embeddings", {"input": "w5", "prompt": "w3 w4 "}),
    ("/v1/embeddings", {"input": [[5, 6], [7]]}),
    ("/v1/embeddings", {"input": ["w5 w6 w7 w8 " * 200], "truncate": True}),
    ("/v1/embeddings", {"input": [f"w{2 + n % 900}" for n in range(700)]}),
    ("/v1/rerank", {"query": "w5 w6", "documents": ["w5", "w6 w7", "w8"]}),
]


def test_a_chain_of_two_servers_gives_the_vectors_of_the_last_one(stage: Stage) -> None:
    back = stage.place.serve("back")
    front = stage.chain(back, stage.place.key("front"))
    with closing(Client(front.url, stage.secret)) as client:
        for path, body in ASKED:
            here = client.ask("POST", path, body | {"model": f"{MODEL}:local"})
            there = client.ask("POST", path, body | {"model": f"{MODEL}:back"})
            assert (here.status, there.status) == (200, 200), (body, here.body, there.body)
            assert there.headers["x-fledge-provider"] == "back"
            assert without_model(there.body) == without_model(here.body), body


def without_model(body: Any) -> Any:
    """An answer but for the name of the model, which is as it was written, suffix and all."""
    return {**body, "model": "", "id": ""} if isinstance(body, dict) else body


def test_where_the_last_one_goes_away_the_first_one_answers(stage: Stage) -> None:
    back = stage.place.serve("back")
    route = {MODEL: {"route": ["back", "local"]}}
    front = stage.chain(back, stage.place.key("front"), model=route)
    with Steady(front.url, stage.secret, threads=2) as load:
        load.go_on_until(lambda: set(stage.spaces(front).values()) == {"same"})
        load.go_on_at("back")
        back.process.terminate()
        load.go_on_at("local")
    assert (
        back.process.wait(timeout=30) == 0
    )  # else it would be told a second time, and end at once


def test_keys_stay_on_their_own_side_and_out_of_logs_and_answers(stage: Stage) -> None:
    """Even where a provider repeats its key in what it says."""
    server = stage.serve(log_format="json")
    echoed = f"Incorrect API key provided: {KEYS['one']}. Bearer {KEYS['one']} is not valid."
    error = {"error": {"message": echoed, "type": "invalid_request_error"}}
    said: list[str] = []
    with closing(Client(server.url, stage.secret)) as client:

        def ask(text: str, model: str) -> int:
            body = {"input": text, "model": model, "user": "somebody", "metadata": {"a": "b"}}
            reply = client.ask("POST", "/v1/embeddings", body)
            said.append(f"{reply.headers} {reply.body}")
            return reply.status

        assert ask("w5", f"{MODEL}:one") == 200
        for status in (400, 401, 403, 404, 422, 429, 500):
            stage.one.misbehave(*[says_json(status, error, retry_after="9")] * 9)
            assert ask(f"w6 w{status}", f"{MODEL}:one") >= 400
            stage.one.behave()
        paths = (f"/v1/models/{MODEL}", "/v1/models", "/metrics", "/admin/providers")
        said += [get(f"{server.url}{path}", stage.admin) for path in paths]
    stage.place.stop()
    log = server.log.read_text()
    for secret in (*KEYS.values(), stage.secret, stage.admin):
        assert secret not in log
        assert not [one for one in said if secret in one]
    for request in stage.one.requests:
        sent = f"{request.path} {request.headers} {request.body!r}"
        assert request.headers["authorization"] == f"Bearer {KEYS['one']}"
        for secret in (stage.secret, stage.admin, KEYS["two"], "somebody", "metadata"):
            assert secret not in sent
    assert stage.two.connections == 0


def get(url: str, secret: str) -> str:
    headers = {"authorization": f"Bearer {secret}"}
    response = httpx2.get(url, headers=headers, trust_env=False)
    assert response.status_code == 200, response.text
    return f"{response.headers} {response.text}"


def test_a_providers_key_that_is_revoked_is_no_error_while_another_answers(stage: Stage) -> None:
    server = stage.serve(space_check="off", model={MODEL: {"route": ["one", "two"]}})
    with Steady(server.url, stage.secret, threads=2) as load:
        load.go_on_at("one")
        stage.one.key = "sk-another"
        load.go_on_at("two")
    asked = len(stage.one.requests)
    with closing(Client(server.url, stage.secret)) as client:
        alone = client.ask("POST", "/v1/embeddings", {"input": "w5", "model": f"{MODEL}:one"})
        assert alone.status in (502, 503), alone
        assert "Incorrect API key" not in str(alone.body)
        both = client.ask("POST", "/v1/embeddings", {"input": "w5", "model": MODEL})
        assert both.headers["x-fledge-provider"] == "two"
    # Who has been told that the key is wrong does not ask with every request.
    assert len(stage.one.requests) <= asked + 1
