"""An observer that writes everything down."""

from fledge.routing.observing import ProviderOutcome


class Seen:
    """What providers were seen to do.

    Attributes:
        requests: provider, outcome, seconds.
        charges: provider, tokens, billionths.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, ProviderOutcome, float]] = []
        self.charges: list[tuple[str, int, int]] = []

    def on_request(self, provider: str, outcome: ProviderOutcome, seconds: float) -> None:
        self.requests.append((provider, outcome, seconds))

    def on_charge(self, provider: str, tokens: int, nanos: int) -> None:
        self.charges.append((provider, tokens, nanos))
