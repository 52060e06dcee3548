"""Unmodified clients in front of a server that asks for keys: what they raise, and show."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
from huggingface_hub import HfApi, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from openai import OpenAI

from fledge.accounts.keys import new_secret
from fledge.testing import FakeBackend, fake_card
from tests.clients.foreign_clients import ForeignError, huggingface_hub_0_27, huggingface_js
from tests.clients.serving import Recording, serving
from tests.keyed import Keyed

MODEL = "org/name"
LONG = "w " * 14
WRONG = new_secret()


@dataclass(frozen=True)
class Asked:
    """Where the server is, its accounts, and what arrived."""

    url: str
    place: Keyed
    recording: Recording
    clients: ExitStack

    def openai(self, secret: str, **options: object) -> OpenAI:
        client = OpenAI(base_url=f"{self.url}/v1", api_key=secret, **options)  # type: ignore[arg-type] # by name
        return self.clients.enter_context(client)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    with Keyed(tmp_path, [FakeBackend(fake_card(id=MODEL))]) as place:
        place.key("another")
        recording = Recording(place.app)
        with serving(recording) as url, ExitStack() as clients:
            yield Asked(url, place, recording, clients)


# openai


def test_openai_s_client_embeds_with_its_key(asked: Asked) -> None:
    answer = asked.openai(asked.place.key()).embeddings.create(model=MODEL, input="a")
    assert len(answer.data[0].embedding) == 8


def test_openai_s_client_raises_that_the_key_is_wrong(asked: Asked) -> None:
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided") as caught:
        asked.openai(WRONG).embeddings.create(model=MODEL, input="a")
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id
    assert WRONG not in str(caught.value)
    assert len(asked.recording.seen) == 1, "not tried again"


def test_openai_s_client_raises_that_the_key_may_not(asked: Asked) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="insufficient permissions") as caught:
        asked.openai(asked.place.key("a", "admin")).embeddings.create(model=MODEL, input="a")
    assert caught.value.code == "forbidden"
    secret = asked.place.key("b", models=("other/*",))
    with pytest.raises(openai.PermissionDeniedError, match="limited to other/"):
        asked.openai(secret).embeddings.create(model=MODEL, input="a")


def test_openai_s_client_waits_as_long_as_a_limit_says(asked: Asked) -> None:
    """The clock of the limits stands still: the client comes back, and is refused again."""
    client = asked.openai(asked.place.key(requests_per_minute=600), max_retries=1)
    for _ in range(600):
        client.embeddings.create(model=MODEL, input="a")
    with pytest.raises(openai.RateLimitError, match="Rate limit reached") as caught:
        client.embeddings.create(model=MODEL, input="a")
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["x-ratelimit-reset-requests"] == "1m0s"
    first, second = asked.recording.seen[-2:]
    assert second.at_s - first.at_s >= 0.1


def test_openai_s_client_does_not_repeat_what_will_not_pass(asked: Asked) -> None:
    budget = asked.openai(asked.place.key("a", monthly_token_budget=20), max_retries=2)
    budget.embeddings.create(model=MODEL, input=LONG)
    with pytest.raises(openai.RateLimitError, match="exceeded your current quota") as caught:
        budget.embeddings.create(model=MODEL, input=LONG)
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
    assert len(asked.recording.seen) == 2
    too_small = asked.openai(asked.place.key("b", tokens_per_minute=20), max_retries=2)
    with pytest.raises(openai.RateLimitError, match="send it in parts"):
        too_small.embeddings.create(model=MODEL, input="x" * 100)
    assert len(asked.recording.seen) == 3


# huggingface_hub


def test_the_hub_s_client_embeds_with_its_key_and_names_who_pays(asked: Asked) -> None:
    new = asked.place.new_key()
    with pytest.warns(UserWarning, match="only applicable for Hugging Face billing"):
        # Of any key that does not begin with hf_; the header is sent all the same.
        client = InferenceClient(base_url=asked.url, api_key=new.secret, bill_to="an-org")
    assert client.feature_extraction("a").shape == (1, 8)
    assert asked.recording.seen[-1].headers["x-hf-bill-to"] == "an-org"
    assert asked.place.backend.jobs[-1].tenant == new.key.id


def test_the_hub_s_client_shows_that_the_key_is_wrong(asked: Asked) -> None:
    client = InferenceClient(base_url=asked.url, api_key=WRONG)
    with pytest.raises(HfHubHTTPError, match="no such key, or it was revoked") as caught:
        client.feature_extraction("a")
    assert caught.value.response.status_code == 401
    assert "Request ID:" in str(caught.value)


def test_the_hub_s_client_shows_that_the_key_may_not(asked: Asked) -> None:
    secret = asked.place.key("a", "admin")
    with pytest.raises(HfHubHTTPError, match="403 Forbidden: This authentication method") as caught:
        InferenceClient(base_url=asked.url, api_key=secret).feature_extraction("a")
    assert "inference is needed" in str(caught.value)
    assert "None" not in str(caught.value)


def test_the_hub_s_client_tells_when_to_come_back(asked: Asked) -> None:
    secret = asked.place.key(requests_per_minute=2)
    client = InferenceClient(base_url=asked.url, api_key=secret)
    for _ in range(2):
        client.feature_extraction("a")
    with pytest.raises(HfHubHTTPError, match="you have reached your 'api' rate limit") as caught:
        client.feature_extraction("a")
    assert "Retry after 30 seconds" in str(caught.value)
    assert "This key may use 2 requests a minute" in str(caught.value)


def test_the_hub_s_client_shows_that_the_budget_is_used_up(asked: Asked) -> None:
    secret = asked.place.key(monthly_token_budget=20)
    client = InferenceClient(base_url=asked.url, api_key=secret)
    client.feature_extraction(LONG)
    with pytest.raises(HfHubHTTPError, match="exceeded your monthly included credits") as caught:
        client.feature_extraction(LONG)
    assert caught.value.response.status_code == 402


def test_the_hub_s_api_tells_a_wrong_key_from_a_model_that_is_missing(asked: Asked) -> None:
    api = HfApi(endpoint=asked.url, token=asked.place.key())
    assert api.model_info(MODEL).id == MODEL
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/none")
    for token in (WRONG, False):
        with pytest.raises(HfHubHTTPError) as caught:
            HfApi(endpoint=asked.url, token=token).model_info(MODEL)
        assert type(caught.value) is HfHubHTTPError
        assert caught.value.response.status_code == 401


def test_the_old_client_of_the_hub_shows_the_words(asked: Asked) -> None:
    limited = asked.place.key("limited", requests_per_minute=1)
    tried = [
        (WRONG, 401, "Invalid credentials in Authorization header"),
        (asked.place.key("a", "admin"), 403, "inference is needed"),
        (limited, None, ""),
        (limited, 429, "This key may use 1 requests a minute"),
    ]
    with huggingface_hub_0_27(asked.url) as hub:
        for token, status, words in tried:
            job = {
                "client": {"model": MODEL, "token": token},
                "method": "feature_extraction",
                "arguments": {"text": "a"},
            }
            if status is None:
                assert hub.call(**job)["shape"] == [1, 8]
                continue
            with pytest.raises(ForeignError, match=words) as caught:
                hub.call(**job)
            assert "HfHubHTTPError" in caught.value.kinds
            assert caught.value.status == status


# @huggingface/inference


def test_the_javascript_client_shows_the_words_and_does_not_try_again(asked: Asked) -> None:
    spent = asked.place.key("spent", monthly_token_budget=20)
    asked.openai(spent).embeddings.create(model=MODEL, input=LONG)
    tried = [
        (WRONG, 401, "Invalid credentials in Authorization header. This server has no such key"),
        (asked.place.key("a", "admin"), 403, "inference is needed"),
        (asked.place.key("b", tokens_per_minute=5), 429, "Rate limit reached. This key may use 5"),
        (spent, 402, "You have exceeded your monthly included credits. This key"),
    ]
    with huggingface_js() as js:
        for token, status, words in tried:
            count = len(asked.recording.seen)
            arguments = {"endpointUrl": asked.url, "inputs": LONG}
            with pytest.raises(ForeignError) as caught:
                js.call(method="featureExtraction", arguments=arguments, token=token)
            assert words in str(caught.value)
            assert caught.value.status == status
            assert caught.value.request_id
            assert len(asked.recording.seen) == count + 1
        arguments = {"endpointUrl": asked.url, "inputs": "a", "billTo": "an-org"}
        vectors = js.call(method="featureExtraction", arguments=arguments, token=asked.place.key())
        assert np.shape(vectors) == (1, 8)


# Bodies that nobody reads.

LARGE = ["w " * 2000] * 2000
"""8 MB: far more than fits into the buffers of a connection."""


def test_a_large_body_with_a_wrong_key_is_refused_and_not_reset(asked: Asked) -> None:
    with pytest.raises(openai.AuthenticationError):
        asked.openai(WRONG).embeddings.create(model=MODEL, input=LARGE)
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(base_url=asked.url, api_key=WRONG).feature_extraction(LARGE)
    arguments = {"endpointUrl": asked.url, "inputs": LARGE}
    with huggingface_js() as js, pytest.raises(ForeignError) as caught:
        js.call(method="featureExtraction", arguments=arguments, token=WRONG)
    assert caught.value.status == 401


def test_a_client_that_reads_only_after_it_has_sent_all_gets_its_refusal(asked: Asked) -> None:
    """And closes the connection afterwards, which bytes left unread would turn into a reset."""
    body = json.dumps({"input": LARGE}).encode()
    address = urlsplit(asked.url)
    where = (address.hostname or "", address.port or 0)
    with socket.create_connection(where, timeout=20) as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"missing_api_key" in answer
