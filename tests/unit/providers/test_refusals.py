"""Whose fault a refusal is, when to come again, and what is passed on of the provider's words."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.errors import (
    CannotCarry,
    FledgeError,
    ProviderDenied,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from fledge.providers.refusals import LONGEST_RETRY_AFTER_S, error_of, is_too_long, retry_after_s
from fledge.providers.shapes import Reply
from fledge.providers.words import LONGEST, told
from tests.providers import troubles
from tests.providers.troubles import says, says_json
from tests.providers.wire import Flavour
from tests.unit.providers.conftest import PRESET_OF, Backends, Fakes, job

KEY = "sk-live-0123456789abcdef"


def reply(status: int, body: bytes = b"", **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


def error(status: int, body: bytes = b"", *, is_cold: bool = False) -> FledgeError:
    return error_of(
        reply(status, body), provider="far", key=KEY, texts=["a"], says_400_while_loading=is_cold
    )


STATUSES: list[tuple[int, type[FledgeError]]] = [
    (301, ProviderUnavailable),
    (400, ProviderRefused),
    (401, ProviderDenied),
    (402, ProviderDenied),
    (403, ProviderDenied),
    (404, ProviderDenied),
    (405, ProviderDenied),
    (408, ProviderUnavailable),
    (409, ProviderUnavailable),
    (410, ProviderDenied),
    (413, CannotCarry),
    (415, ProviderDenied),
    (418, ProviderRefused),
    (422, ProviderRefused),
    (424, ProviderUnavailable),
    (425, ProviderUnavailable),
    (429, ProviderUnavailable),
    (500, ProviderUnavailable),
    (502, ProviderUnavailable),
    (503, ProviderUnavailable),
    (504, ProviderUnavailable),
    (529, ProviderUnavailable),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_a_status_says_whose_fault_it_is(status: int, kind: type[FledgeError]) -> None:
    found = error(status)
    assert type(found) is kind
    assert str(status) in str(found)
    if isinstance(found, ProviderError):
        assert (found.provider, found.status) == ("far", status)


BODIES: list[tuple[bytes, type[FledgeError]]] = [
    (b'{"error":"Model not supported by provider hf-inference"}', ProviderDenied),
    (b'{"error":{"message":"The model `x` does not exist"}}', ProviderDenied),
    (b'{"error":{"message":"no","code":"model_not_found"}}', ProviderDenied),
    (b'{"error":"batch size 33 > maximum allowed batch size 32"}', CannotCarry),
    (b'{"error":"Requested 400000 tokens, max 300000 tokens per request"}', CannotCarry),
    (b'{"error":"Invalid input[0]: input cannot be an empty string."}', ProviderRefused),
]


@pytest.mark.parametrize(("body", "kind"), BODIES)
def test_a_400_is_told_apart_by_its_words(body: bytes, kind: type[FledgeError]) -> None:
    assert type(error(400, body)) is kind
    assert not is_too_long(reply(400, body))


def test_a_text_cannot_make_a_provider_look_misconfigured() -> None:
    text = "model_not_found: the model does not exist"
    body = b'{"detail":[{"msg":"bad value %b","input":"%b"}]}' % (text.encode(), text.encode())
    found = error_of(
        reply(422, body), provider="far", key=None, texts=[text], says_400_while_loading=False
    )
    assert type(found) is ProviderRefused


TOO_LONG = [
    "This model's maximum context length is 8192 tokens, however you requested 8200 tokens",
    "Input validation error: `inputs` must have less than 512 tokens. Given: 600",
    "Input validation error: `inputs` must have less than 128000 characters. Given: 200000",
    "too many tokens: max tokens per text cannot exceed 512, received 600.",
    "`input[3]` has 600 tokens; this model takes at most 512: shorten it, or ask for truncation",
    "The prompt (total length 600) is longer than the max_model_len of 512",
    "Input text exceeds the maximum length of 512 tokens",
    "input_too_long",
    "Token sequence too long",
    "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
]


@pytest.mark.parametrize("words", TOO_LONG)
def test_a_text_that_is_too_long_is_known_by_the_words_of_every_server(words: str) -> None:
    assert is_too_long(reply(400, words.encode()))
    assert is_too_long(reply(422, words.encode()))
    assert not is_too_long(reply(429, words.encode()))
    assert not is_too_long(reply(500, words.encode()))


@pytest.mark.anyio
@pytest.mark.parametrize("flavour", list(PRESET_OF))
async def test_a_bad_key_is_the_operators_affair(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour)
    fake.key = KEY
    with pytest.raises(ProviderDenied, match="far answered 401") as caught:
        await backends(fake, key="sk-other").embed(job("a"))
    assert caught.value.status == 401
    assert len((await backends(fake, key=KEY).embed(job("a"))).vectors) == 1


@pytest.mark.anyio
async def test_a_key_that_expires_is_denied_from_then_on(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    fake.key = KEY
    backend = backends(fake, key=KEY)
    await backend.embed(job("a"))
    fake.key = "sk-new"
    with pytest.raises(ProviderDenied):
        await backend.embed(job("a"))


@pytest.mark.anyio
@pytest.mark.parametrize("flavour", ["openai", "hf-inference"])
async def test_a_model_that_the_provider_does_not_have_is_the_operators_affair(
    flavour: Flavour, fakes: Fakes, backends: Backends
) -> None:
    fake = fakes(flavour, names=["another"])
    with pytest.raises(ProviderDenied, match=r"far answered 40[04]: "):
        await backends(fake).embed(job("a"))


@pytest.mark.anyio
async def test_in_a_storm_of_429s_each_says_when_to_come_again(
    fakes: Fakes, backends: Backends
) -> None:
    fake = fakes()
    fake.always(troubles.busy)
    backend = backends(fake)
    for _ in range(3):
        with pytest.raises(ProviderUnavailable, match="answered 429: Rate limit") as caught:
            await backend.embed(job("a"))
        assert (caught.value.status, caught.value.retry_after_s) == (429, 7.0)
    assert len(fake.requests) == 3, "nobody here repeats it"
    fake.behave()
    await backend.embed(job("a"))


@pytest.mark.anyio
async def test_featherless_says_400_while_it_loads(fakes: Fakes, backends: Backends) -> None:
    fake = fakes("featherless")
    fake.always(says_json(400, {"error": {"message": "Model is cold", "code": "model_cold"}}))
    with pytest.raises(ProviderUnavailable, match="loads a model") as caught:
        await backends(fake).embed(job("a"))
    assert caught.value.status == 400
    assert caught.value.retry_after_s == 30.0


@pytest.mark.anyio
async def test_hf_inference_says_how_long_loading_takes(fakes: Fakes, backends: Backends) -> None:
    fake = fakes("hf-inference")
    body = {"error": "Model its-name is currently loading", "estimated_time": 22.5}
    fake.always(says_json(503, body))
    with pytest.raises(ProviderUnavailable, match="is currently loading") as caught:
        await backends(fake).embed(job("a"))
    assert caught.value.retry_after_s == 22.5


NOW_S = 1_800_000_000
RETRY: list[tuple[dict[str, str], float | None]] = [
    ({}, None),
    ({"retry-after": "7"}, 7.0),
    ({"retry-after": " 7 "}, 7.0),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": "-5"}, None),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "1e9"}, None),
    ({"retry-after": "999999999"}, LONGEST_RETRY_AFTER_S),
    ({"retry-after": "9" * 400}, None),
    ({"retry-after": formatdate(NOW_S + 90, usegmt=True)}, 90.0),
    ({"retry-after": formatdate(NOW_S - 90, usegmt=True)}, 0.0),
    ({"retry-after": formatdate(NOW_S + 10**7, usegmt=True)}, LONGEST_RETRY_AFTER_S),
    ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
    ({"ratelimit": '"api";r=0;t=55'}, 55.0),
    ({"ratelimit": '"api";r=3;t=55'}, None),
]


@pytest.mark.parametrize(("headers", "expected_s"), RETRY)
def test_when_to_come_again_is_read_in_every_spelling_and_bounded(
    headers: dict[str, str], expected_s: float | None
) -> None:
    assert retry_after_s(Reply(429, headers, b""), now_s=NOW_S) == expected_s


def test_a_date_is_compared_with_the_clock() -> None:
    found = retry_after_s(reply(503, retry_after=formatdate(time.time() + 100, usegmt=True)))
    assert found is not None
    assert 90 < found <= 100


@pytest.mark.parametrize("value", ["1e999", '"9"', "null", "true", "[]", "-4", "9" * 400])
def test_an_estimate_that_is_none_does_no_harm(value: str) -> None:
    body = b'{"estimated_time": %b}' % value.encode()
    found = retry_after_s(reply(503, body))
    assert found is None or 0 <= found <= LONGEST_RETRY_AFTER_S


WORDS: list[tuple[bytes, str]] = [
    (b'{"error":{"message":"plain","code":"x"}}', "plain"),
    (b'{"error":"plain"}', "plain"),
    (b'{"error":["one","two"]}', "one; two"),
    (b'{"message":"plain","code":400,"type":"Validation"}', "plain"),
    (b'{"detail":"plain"}', "plain"),
    (b'{"detail":[{"loc":["body"],"msg":"field required","type":"missing"}]}', "field required"),
    (b'{"object":"error","message":"plain","code":400}', "plain"),
    (b'{"error":{"error":{"x":1}}}', ""),
    (b"[1,2]", ""),
    (b"plain text", "plain text"),
    (b"Not\r\nFound\t\x00\x1b[31m", "Not Found [31m"),
    (b"<html><body>502</body></html>", ""),
    (b"", ""),
    (b"null", ""),
    (b"\xff\xfe", "��"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), WORDS)
def test_the_message_of_every_kind_of_body_is_found(body: bytes, expected: str) -> None:
    assert told(body, key=None, texts=[]) == expected


def test_the_words_are_one_short_line() -> None:
    found = told(b'{"error":"%b"}' % (b"word \\n" * 10_000), key=None, texts=[])
    assert len(found) <= LONGEST
    assert "\n" not in found


@pytest.mark.parametrize(
    "said",
    [
        f"Incorrect API key provided: {KEY}.",
        f"Incorrect API key provided: {KEY[:12]}",
        "Incorrect API key provided: sk-liv**********cdef",
        f"Bearer {KEY} is no longer valid",
    ],
)
def test_a_key_is_left_out_of_what_a_provider_said(said: str) -> None:
    found = told(said.encode(), key=KEY, texts=[])
    assert "…" in found
    assert not any(KEY[at : at + 6] in found for at in range(len(KEY) - 5))
    assert "cdef" not in found


TEXT = "The patient, Ada Lovelace, was born on 10 December 1815 in Größenwahn."


@pytest.mark.parametrize(
    "said",
    [
        f'Body needs to provide a inputs key, received: b\'{{"input": ["{TEXT}"]}}\'',
        f"could not embed {TEXT[:30]!r}...",
        f"could not embed {TEXT.encode()!r}",
        f"could not embed ...{TEXT[20:]}",
        "bad character in " + TEXT.replace(" ", "\n"),
    ],
)
def test_a_text_is_left_out_of_what_a_provider_said(said: str) -> None:
    found = told(said.encode(), key=None, texts=["another one", TEXT])
    assert "…" in found
    for part in ("Lovelace", "1815", "enwahn", "Gr"):
        assert part not in found, found


@given(st.text(min_size=3), st.text(), st.text())
def test_no_text_is_passed_on_whole(text: str, before: str, after: str) -> None:
    found = told(f"{before}{text}{after}".encode("utf-8", "replace"), key=None, texts=[text])
    plain = " ".join(text.split())
    if len(plain) >= 3 and plain.isprintable() and "…" not in plain:
        assert plain not in found


@pytest.mark.anyio
async def test_errors_hold_neither_texts_nor_the_key(
    fakes: Fakes, backends: Backends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    fake = fakes()
    backend = backends(fake, key=KEY)
    for status in (400, 401, 422, 429, 500, 503):
        fake.misbehave(says(status, f"I was sent {TEXT} with {KEY} and do not like it"))
        with pytest.raises(ProviderError) as caught:
            await backend.embed(job(TEXT))
        shown = f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"
        assert "do not like it" in shown
        assert "Lovelace" not in shown
        assert "0123456789" not in shown
    assert "Lovelace" not in caplog.text
    assert "0123456789" not in caplog.text


@pytest.mark.anyio
async def test_neither_does_anything_that_is_printed(fakes: Fakes, backends: Backends) -> None:
    """Of a provider, and of what is made of it."""
    from_settings = backends(fakes(), key=KEY)
    shown = repr([from_settings, from_settings._client, from_settings._client.provider])
    assert KEY not in shown
