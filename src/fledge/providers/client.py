"""HTTP to one provider: one of the two modules that reach the network.

What it keeps to: a deadline for the whole, a limit on what is read, no address that was not
checked, no other host than the provider's. The environment is not asked: neither for proxies, which
would look names up themselves, nor for a netrc file, whose passwords would take the key's place,
nor for certificates (`Provider.ca_file`). Cookies are not kept. What a library says of an error is
not passed on, since it may quote a header.
"""

import asyncio
import ssl
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx2

from fledge.errors import ProviderUnavailable, SettingsError
from fledge.providers.addresses import Addresses, Resolve, look_up
from fledge.providers.bodies import read_beginning, read_whole
from fledge.providers.places import Places
from fledge.providers.provider import Provider
from fledge.providers.shapes import Call, Reply, WrongAnswer
from fledge.telemetry.notes import fledge_version

_IDLE_CONNECTION_S = 30.0
_MOST_REDIRECTS = 2
_KEEPS_METHOD = frozenset({307, 308})
_MOST_ERROR_BYTES = 16 * 1024


class ProviderClient:
    """The connections to one provider, shared by all models that it serves. For one event loop.

    Args:
        provider: who it is.
        allow_private: whether it may be on this machine or in its network.
        resolve: looks names up.

    Attributes:
        provider: likewise.
        places: how many of its requests may be on their way; taken by whoever sends them.
    """

    def __init__(
        self, provider: Provider, *, allow_private: bool = False, resolve: Resolve = look_up
    ) -> None:
        self.provider = provider
        self.places = Places(provider.max_concurrent_requests)
        self._base = httpx2.URL(provider.base_url.strip().rstrip("/"))
        port = self._base.port or (443 if self._base.scheme == "https" else 80)
        self._addresses = Addresses(
            provider.name, self._base.host, port, allow_private=allow_private, resolve=resolve
        )
        self._http = httpx2.AsyncClient(
            headers=self._headers(),
            verify=_trusted(provider.ca_file),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=httpx2.Timeout(provider.timeout_s, connect=provider.connect_timeout_s),
            limits=httpx2.Limits(
                max_connections=provider.max_concurrent_requests,
                max_keepalive_connections=provider.max_concurrent_requests,
                keepalive_expiry=_IDLE_CONNECTION_S,
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def send(self, call: Call, *, most_bytes: int) -> Reply:
        """The reply to a call, whatever its status, within the provider's `timeout_s`.

        Args:
            call: what to send.
            most_bytes: a body of vectors has no more; one of an error is cut.

        Raises:
            ProviderUnavailable: no reply, or not a whole one, or too large a one.
            ProviderDenied: the provider's address is not one to call.
        """
        name, timeout_s = self.provider.name, self.provider.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(call, most_bytes)
        except (TimeoutError, httpx2.TimeoutException):
            raise ProviderUnavailable(
                f"{name} did not answer within {timeout_s:g} s", provider=name
            ) from None
        except WrongAnswer as wrong:
            raise ProviderUnavailable(f"{name} answered with {wrong}", provider=name) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise ProviderUnavailable(
                f"{name} {_what_happened(error)} ({type(error).__name__})", provider=name
            ) from None

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        await self._http.aclose()

    def __repr__(self) -> str:
        return f"ProviderClient({self.provider.name!r})"

    def _headers(self) -> dict[str, str]:
        secret = self.provider.secret
        return {
            "user-agent": f"fledge/{fledge_version()}",
            "accept": "application/json",
            # Numbers pack badly, and unpacking them takes longer than the network does.
            "accept-encoding": "identity",
            "content-type": "application/json",
        } | ({} if secret is None else {"authorization": f"Bearer {secret}"})

    async def _follow(self, call: Call, most_bytes: int) -> Reply:
        """Redirects are followed where the same server says that a path has moved."""
        url = httpx2.URL(f"{self._base}{call.path}")
        for _ in range(_MOST_REDIRECTS + 1):
            reply = await self._send_to_any(url, call.body, most_bytes)
            if not 300 <= reply.status < 400:
                return reply
            if reply.status not in _KEEPS_METHOD or "location" not in reply.headers:
                break
            target = url.join(reply.headers["location"])
            if _origin(target) != _origin(url):
                raise WrongAnswer("a redirect to another host, which is not followed")
            url = target
        raise WrongAnswer("a redirect that cannot be followed")

    async def _send_to_any(self, url: httpx2.URL, body: bytes, most_bytes: int) -> Reply:
        """By the first of the provider's addresses that takes a connection."""
        addresses = await self._addresses.find()
        for address in addresses:
            try:
                return await self._send(url, address, body, most_bytes)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if address == addresses[-1]:
                    self._addresses.forget()
                    raise
        raise AssertionError("no address, and none is an error already")

    async def _send(self, url: httpx2.URL, address: str, body: bytes, most_bytes: int) -> Reply:
        """To this address, under the provider's name: of the header, and of its certificate."""
        async with self._http.stream(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers={"host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": url.host},
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            chunks = response.aiter_raw()
            if response.is_success:
                content = await read_whole(chunks, headers, most_bytes)
            else:
                content = await read_beginning(chunks, headers, _MOST_ERROR_BYTES)
            return Reply(response.status_code, headers, content)


@cache
def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    """Kept, since reading the system's certificates takes 60 ms.

    Raises:
        SettingsError: there are none in the file.
    """
    if ca_file is None:
        return httpx2.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # of which SSLError is one
        raise SettingsError(
            f"ca_file: no certificates can be read from {ca_file} ({type(error).__name__})"
        ) from None


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _what_happened(error: Exception) -> str:
    if isinstance(error, httpx2.ConnectError):
        return "cannot be reached"
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return "broke off before its answer was whole"
    return "cannot be asked"
