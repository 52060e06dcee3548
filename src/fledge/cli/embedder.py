"""From the service's answers to what the file layer asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fledge.cli import console
from fledge.requests import EmbedRequest
from fledge.service import Service
from fledge.types import Vectors


@dataclass(slots=True)
class ServiceEmbedder:
    """Embeds texts as one request says; shows each warning of the service once.

    Attributes:
        service: computes.
        request: everything about the request but its inputs.
    """

    service: Service
    request: EmbedRequest
    _warned: set[str] = field(default_factory=set)

    async def __call__(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """The vectors, and how many texts were cut."""
        response = await self.service.embed(replace(self.request, inputs=texts))
        for warning in response.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                console.warn(warning)
        return response.vectors, response.truncated_count
