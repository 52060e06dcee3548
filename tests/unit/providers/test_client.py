"""Where requests go, and where they never do; what is in them, and what never is."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fledge.errors import ProviderDenied, ProviderUnavailable, SettingsError
from fledge.providers.addresses import Addresses, is_public, look_up
from fledge.providers.backend import ProviderBackend
from fledge.providers.client import ProviderClient
from fledge.providers.openai import OpenAIShape
from fledge.providers.parts import PartLimits
from fledge.providers.provider import Provider
from tests.providers.fakes import FakeProvider
from tests.providers.troubles import mislabelled, says
from tests.unit.providers.conftest import ENTRY, Backends, Fakes, job, provider_at

pytestmark = pytest.mark.anyio

# Made with openssl for a hundred years; the key of the authority was thrown away.
TLS = Path(__file__).parents[2] / "providers" / "tls"
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",  # noqa: S104 - the machine itself, to those who connect to it
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "240.0.0.1",
    "::",
    "::1",
    "fec0::1",
    "192.0.0.8",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "",
    "localhost",
]


@pytest.mark.parametrize("address", PUBLIC)
async def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_an_address_of_this_machine_or_network_is_not(address: str) -> None:
    assert not is_public(address)


class Names:
    """A DNS of one's own."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def client_of(
    fake: FakeProvider, names: Any = look_up, *, allow_private: bool = True, **facts: Any
) -> ProviderClient:
    return ProviderClient(provider_at(fake, **facts), allow_private=allow_private, resolve=names)


async def ask(client: ProviderClient) -> None:
    try:
        await ProviderBackend(ENTRY, client, provider_id="its-name").embed(job("a"))
    finally:
        await client.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1"])
async def test_this_machine_is_not_called_in_whatever_spelling(host: str, fakes: Fakes) -> None:
    fake = fakes()
    base_url = fake.url.replace("127.0.0.1", host)
    with pytest.raises(ProviderDenied, match="set allow_private_providers"):
        await ask(client_of(fake, allow_private=False, base_url=base_url))
    assert fake.connections == 0


async def test_a_name_that_leads_here_is_not_called(fakes: Fakes) -> None:
    fake = fakes()
    base_url = fake.url.replace("127.0.0.1", "provider.test")
    for answer in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"]):
        with pytest.raises(ProviderDenied):
            await ask(client_of(fake, Names(answer), allow_private=False, base_url=base_url))
    assert fake.connections == 0


async def test_the_address_that_was_checked_is_the_one_that_is_called(fakes: Fakes) -> None:
    """A name that is public when it is checked, and leads here when it is looked up again."""
    fake = fakes()
    base_url = fake.url.replace("127.0.0.1", "provider.test")
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    client = client_of(fake, names, base_url=base_url)
    backend = ProviderBackend(ENTRY, client, provider_id="its-name")
    for _ in range(3):
        await backend.embed(job("a"))
    await client.aclose()
    port = int(fake.root.rsplit(":", 1)[1])
    assert names.asked == [("provider.test", port)]
    assert fake.connections == 1
    assert fake.requests[0].headers["host"] == f"provider.test:{port}"


async def test_a_private_provider_is_called_where_the_settings_allow_it(fakes: Fakes) -> None:
    fake = fakes()
    await ask(client_of(fake))
    assert len(fake.requests) == 1


async def test_a_name_without_an_address_is_no_place_to_call(fakes: Fakes) -> None:
    async def nobody(host: str, port: int) -> Sequence[str]:
        raise OSError

    for names in (nobody, Names([])):
        with pytest.raises(ProviderUnavailable, match="its name has no address"):
            await ask(client_of(fakes(), names))


async def test_the_next_address_is_tried_where_one_takes_no_connection(fakes: Fakes) -> None:
    fake = fakes()
    base_url = fake.url.replace("127.0.0.1", "provider.test")
    await ask(client_of(fake, Names(["127.0.0.9", "127.0.0.1"]), base_url=base_url))
    assert len(fake.requests) == 1


async def test_names_are_looked_up_again_when_no_address_takes_a_connection(
    fakes: Fakes,
) -> None:
    fake = fakes()
    names = Names(["127.0.0.9"], ["127.0.0.1"])
    client = client_of(fake, names, base_url=fake.url.replace("127.0.0.1", "provider.test"))
    backend = ProviderBackend(ENTRY, client, provider_id="its-name")
    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        await backend.embed(job("a"))
    await backend.embed(job("a"))
    await client.aclose()


async def test_an_address_of_ipv6_is_called(fakes: Fakes) -> None:
    """Nobody answers there; but it is a refusal, and no mistake in the URL."""
    fake = fakes()
    base_url = fake.url.replace("127.0.0.1", "provider.test")
    with pytest.raises(ProviderUnavailable, match=r"cannot be reached \(ConnectError\)"):
        await ask(client_of(fake, Names(["::1"]), base_url=base_url))


async def test_a_certificate_is_checked_against_the_name_and_not_the_address(
    fakes: Fakes,
) -> None:
    fake = fakes(certificate=TLS / "provider.test.pem")
    named = fake.url.replace("127.0.0.1", "provider.test")
    other = fake.url.replace("127.0.0.1", "other.test")
    names, trusted = Names(["127.0.0.1"]), TLS / "authority.pem"
    await ask(client_of(fake, names, base_url=named, ca_file=trusted))
    assert len(fake.requests) == 1
    for facts in ({"base_url": other, "ca_file": trusted}, {"base_url": named}):
        with pytest.raises(ProviderUnavailable, match="cannot be reached"):
            await ask(client_of(fake, names, **facts))
    assert len(fake.requests) == 1


async def test_a_file_without_certificates_is_refused(fakes: Fakes, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(SettingsError, match="ca_file: no certificates"):
            client_of(fakes(), ca_file=path)


async def test_the_key_is_in_one_header_and_nowhere_else(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    await backends(fake, key="sk-live-123").embed(job("a"))
    (request,) = fake.requests
    headers = dict(request.headers)
    assert headers.pop("authorization") == "Bearer sk-live-123"
    assert "sk-live-123" not in f"{request.path} {headers} {request.body!r}"


async def test_without_a_key_none_is_sent(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    await backends(fake).embed(job("a"))
    assert "authorization" not in fake.requests[0].headers


async def test_the_headers_are_those_of_fledge(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    await backends(fake).embed(job("a"))
    headers = dict(fake.requests[0].headers)
    assert headers.pop("user-agent").startswith("fledge/")
    assert headers.pop("content-length").isdecimal()
    assert headers.pop("host") == fake.root.removeprefix("http://")
    assert headers == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "connection": "keep-alive",
    }


async def test_the_environment_is_not_asked(
    fakes: Fakes, backends: Backends, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither for a proxy nor for passwords."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake = fakes()
    await backends(fake, key="sk-1").embed(job("a"))
    assert fake.requests[0].headers["authorization"] == "Bearer sk-1"
    assert os.environ["HTTP_PROXY"]


async def test_cookies_are_not_kept(fakes: Fakes, backends: Backends) -> None:
    fake = fakes()
    backend = backends(fake)
    fake.misbehave(mislabelled("application/json\r\nset-cookie: a=b"))
    await backend.embed(job("a"))
    await backend.embed(job("a"))
    assert "cookie" not in fake.requests[1].headers


async def test_a_redirect_takes_the_key_nowhere_else(fakes: Fakes, backends: Backends) -> None:
    fake, other = fakes(), fakes()
    backend = backends(fake, key="sk-1")
    for status in (301, 302, 303, 307, 308):
        fake.misbehave(says(status, "", location=f"{other.url}/embeddings"))
        with pytest.raises(ProviderUnavailable, match="redirect"):
            await backend.embed(job("a"))
    assert other.connections == 0


@pytest.mark.parametrize("key", ["", " ", "sk 1", "sk-1\n", "sk-1\r\nx-other: 1", "sk-ü"])
async def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="the key of the provider far") as caught:
        a_provider(key=SecretStr(key))
    if len(key) > 1:
        assert key not in str(caught.value)


@pytest.mark.parametrize("name", ["local", "", "Nebius", "a/b", "a b", "-a", "a" * 65, "a:b"])
async def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be called"):
        a_provider(name=name)


@pytest.mark.parametrize(
    "base_url",
    ["", "far.test/v1", "ftp://far.test", "http://me:secret@far.test/v1", "http://a/?k=1"],
)
async def test_an_address_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(SettingsError, match="the base_url of the provider far") as caught:
        a_provider(base_url=base_url)
    assert "secret" not in str(caught.value)


def a_provider(**facts: Any) -> Provider:
    defaults: dict[str, Any] = {
        "name": "far",
        "shape": OpenAIShape(),
        "base_url": "https://far.test/v1",
        "limits": PartLimits(8, 1000),
    }
    return Provider(**defaults | facts)


async def test_addresses_are_found_once_for_many_who_ask() -> None:
    names = Names(["8.8.8.8"])
    addresses = Addresses("far", "far.test", 443, allow_private=False, resolve=names)
    for _ in range(3):
        assert await addresses.find() == ["8.8.8.8"]
    assert len(names.asked) == 1
    addresses.forget()
    await asyncio.gather(addresses.find(), addresses.find())
    assert len(names.asked) >= 2


async def test_the_system_knows_this_machine() -> None:
    assert "127.0.0.1" in await look_up("localhost", 80)
