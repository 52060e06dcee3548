"""Where a provider's name leads: only to the public internet, unless a setting says otherwise.

Whoever may name a provider's address, or answers for its name in the DNS, could otherwise have this
server call what only it can reach. The addresses that were checked are the ones that are called:
the name is not looked up again in between.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from fledge.errors import ProviderDenied, ProviderUnavailable

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host for a port, the preferred one first; OSError: there are none."""

_KEPT_S = 60.0
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""What NAT64 makes of IPv4 addresses (RFC 6052)."""
_OF_PROTOCOLS = IPv4Network("192.0.0.0/24")
"""Kept for protocols (RFC 6890); Python counts one of them as global."""


async def look_up(host: str, port: int) -> Sequence[str]:
    """As the system resolves names."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether it is an address of the public internet, also inside of another one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    inner = _inside(parsed) if isinstance(parsed, IPv6Address) else None
    if inner is not None:
        return is_public(str(inner))
    if isinstance(parsed, IPv6Address) and parsed.is_site_local:
        return False  # which Python 3.11 counts as global
    return parsed.is_global and not (
        parsed.is_multicast or parsed.is_reserved or parsed in _OF_PROTOCOLS
    )


def _inside(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class Addresses:
    """The addresses of one provider's host, looked up at most once a minute.

    Args:
        provider: its name, for errors.
        host: a name, or an address in any spelling that the system reads.
        port: where it listens.
        allow_private: whether addresses that are not public may be called.
        resolve: looks names up.
    """

    def __init__(
        self, provider: str, host: str, port: int, *, allow_private: bool, resolve: Resolve
    ) -> None:
        self._provider = provider
        self._host = host
        self._port = port
        self._allow_private = allow_private
        self._resolve = resolve
        self._found: Sequence[str] = ()
        self._until_s = 0.0

    async def find(self) -> Sequence[str]:
        """At least one, the preferred one first.

        Raises:
            ProviderUnavailable: the name has no address now.
            ProviderDenied: one of them is not public.
        """
        if time.monotonic() < self._until_s:
            return self._found
        try:
            found = await self._resolve(self._host, self._port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise ProviderUnavailable(
                f"{self._provider} cannot be found: its name has no address",
                provider=self._provider,
            )
        if not self._allow_private and not all(map(is_public, found)):
            raise ProviderDenied(
                f"{self._provider} has an address that is not of the public internet; where that "
                "is meant, set allow_private_providers",
                provider=self._provider,
            )
        self._found, self._until_s = found, time.monotonic() + _KEPT_S
        return found

    def forget(self) -> None:
        """Look them up again next time."""
        self._until_s = 0.0
