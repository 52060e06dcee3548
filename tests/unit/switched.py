"""A catalogue whose requests may be answered elsewhere: a service with a switchboard over fakes.

place = Switched(FakePlace(), FakePlace("far", price=10_000_000))
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from fledge.routing.options import RouterOptions
from fledge.routing.router import Router
from fledge.routing.space_book import SpaceBook
from fledge.routing.switchboard import Spending, Switchboard
from fledge.testing import fake_card
from fledge.types import ModelEntry
from tests.unit.api.catalogue import Catalogue
from tests.unit.routing.fakes import FakePlace

MODEL = ModelEntry(id="org/name", provider_ids={"far": "name-of-far", "near": "name-of-near"})
NOVEMBER = datetime(2026, 11, 21, tzinfo=UTC)


def place_of(name: str = "local", *, dimension: int = 8, price: int | None = None) -> FakePlace:
    """A place that answers at once."""
    card = fake_card(id=MODEL.id, deployment=name, dimension=dimension, max_seq_length=512)
    return FakePlace(name, price=price, card=card, delay_s=0.0)


class Switched(Catalogue):
    """One model, warm here, and the places that it has.

    Attributes:
        spending: what providers cost.
    """

    def __init__(self, *places: FakePlace, budgets: Mapping[str, int] | None = None) -> None:
        super().__init__(MODEL)
        self.spending = Spending(budgets or {}, {}, now=lambda: NOVEMBER)
        router = Router(
            lambda _: places, RouterOptions(), SpaceBook(), budget_left=self.spending.left
        )
        names = tuple(place.name for place in places if place.is_remote)
        self.service.switch_through(Switchboard(router, names, self.spending, _nothing))


async def _nothing() -> None:
    """There is no connection to close."""
