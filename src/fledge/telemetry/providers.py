"""The numbers about providers: an observer of the requests that go to them.

Labels are the names in the settings and words of Fledge's own, so there are few.
"""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import get_args

from fledge.money import money_of
from fledge.telemetry.registry import Family, Reading, Registry
from fledge.telemetry.states import ProviderHealth, ProviderState, Relation

# From a near server of one's own to the longest that a provider is waited for, about x 2.5 a step.
_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 120)

_MODELS = Family(
    "fledge_provider_models",
    "gauge",
    "Models of each provider by how they do there: well, resting (not asked for a while, after "
    "failures), or trying (one request finds out whether it works again).",
    ("provider", "state"),
)
_SPACES = Family(
    "fledge_provider_spaces",
    "gauge",
    "Models of each provider by whether their vectors are those of the model's first deployment: "
    "same, differs, or unknown; reference where the provider is the first itself.",
    ("provider", "verdict"),
)
_BUDGET_LEFT = Family(
    "fledge_provider_budget_left",
    "gauge",
    "Money that may still be spent this month at a provider that has a monthly_budget; 0 or less: "
    "it is passed over.",
    ("provider",),
)


class ProviderMetrics:
    """The numbers about providers: a `ProviderObserver` of the router."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._requests = registry.counter(
            "fledge_provider_requests_total",
            "Requests to a provider, probes included: ok, unavailable (it failed, and another "
            "deployment may be asked), refused (the request's fault), denied (this server's: its "
            "key, plan or name for the model), cannot_carry (it cannot be asked for that), "
            "abandoned (nobody waited any longer).",
            ["provider", "outcome"],
        )
        self._seconds = registry.histogram(
            "fledge_provider_request_seconds",
            "Time of one request that a provider answered, all of its parts.",
            ["provider"],
            buckets=_BUCKETS_S,
        )
        self._tokens = registry.counter(
            "fledge_provider_tokens_total",
            "Tokens that a provider has computed for answers.",
            ["provider"],
        )
        self._cost = registry.counter(
            "fledge_provider_cost_total",
            "What those cost, in the currency of the prices; 0 without a price.",
            ["provider"],
        )
        # Labels cost more than counting, so each set of them is looked up once.
        self._count_of = cache(self._requests.labels)
        self._seconds_of = cache(self._seconds.labels)
        self._tokens_of = cache(self._tokens.labels)
        self._cost_of = cache(self._cost.labels)

    def on_request(self, provider: str, outcome: str, seconds: float) -> None:
        """Count a request that is over."""
        self._count_of(provider, outcome).inc()
        if outcome == "ok":
            self._seconds_of(provider).observe(seconds)

    def on_charge(self, provider: str, tokens: int, nanos: int) -> None:
        """Count what an answer cost."""
        self._tokens_of(provider).inc(tokens)
        self._cost_of(provider).inc(money_of(nanos))

    def show(self, providers: Callable[[], Iterable[ProviderState]]) -> None:
        """Ask how the providers stand whenever the metrics are read."""

        def read() -> Iterator[Reading]:
            for one in providers():
                yield from _count(_MODELS, one.name, get_args(ProviderHealth), one.healths)
                yield from _count(_SPACES, one.name, get_args(Relation), one.relations)
                if one.budget_left_nanos is not None:
                    yield _BUDGET_LEFT, (one.name,), money_of(one.budget_left_nanos)

        self._registry.show([_MODELS, _SPACES, _BUDGET_LEFT], read)


def _count(
    family: Family, provider: str, words: Sequence[str], found: Sequence[str]
) -> Iterator[Reading]:
    """How often each word was found, those that were not included."""
    counts = Count(found)
    for word in words:
        yield family, (provider, word), counts[word]
