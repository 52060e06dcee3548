"""A catalogue of models in different states, for everything that lists them.

place = Catalogue()
place.deployments.set("org/plain", state="loading")
with place.client() as client: ...
"""

from datetime import date
from typing import Any

from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.catalog.catalog import Catalog
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeDeployments, fake_card
from fledge.types import ModelEntry

KNOWN = ModelEntry(
    id="org/known",
    aliases=("old-name",),
    provider_ids={"far": "known-of-far"},
    family="bert",
    parameters=33_000_000,
    dimension=384,
    matryoshka_dimensions=(256, 128),
    max_seq_length=512,
    languages=("en", "de"),
    license="apache-2.0",
    prompts={"query": "query: "},
    default_prompt_name="query",
    pooling=("cls",),
    similarity="cosine",
    normalizes=True,
    is_recommended=True,
    summary="A small model for search.",
    created=date(2023, 9, 12),
)
PLAIN = ModelEntry(id="org/plain")
LARGE = ModelEntry(
    id="Other/Large-Model",
    family="qwen3",
    parameters=7_600_000_000,
    languages=("multilingual",),
    license="mit",
    is_gated=True,
    is_recommended=True,
    summary="For long texts.",
    created=date(2025, 6, 3),
)
FOLDER = ModelEntry(id="my-folder", family="bert", created=date(2024, 1, 1))
ENTRIES = (KNOWN, PLAIN, LARGE, FOLDER)
IDS = [entry.id for entry in ENTRIES]


class Catalogue:
    """`ENTRIES`, or others: the first is warm, all others are cold until a test says otherwise.

    Any other model may be named, too, where a test `allows_any`.
    """

    def __init__(self, *entries: ModelEntry, allows_any: bool = False, **settings: Any) -> None:
        entries = entries or ENTRIES
        self.settings = Settings(**settings)
        self.deployments = FakeDeployments()
        card = fake_card(id=entries[0].id, dimension=384, max_seq_length=256)
        self.deployments.set(card.id, state="warm", card=card, memory_bytes=87_000_000)
        self.service = Service(
            Catalog(entries, allows_any=allows_any), self.deployments, self.settings
        )
        self.app = create_app(self.service, self.settings)

    def client(self) -> TestClient:
        """A client on this machine, which follows no redirect."""
        return TestClient(
            self.app,
            base_url="http://127.0.0.1:8080",
            raise_server_exceptions=False,
            follow_redirects=False,
        )
