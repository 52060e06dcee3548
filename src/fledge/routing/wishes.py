"""What a request, or the settings, say about where a model may run."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fledge.errors import UnknownModel
from fledge.names import quoted

Policy: TypeAlias = Literal["fastest", "cheapest"]

POLICIES: dict[str, Policy] = {"fastest": "fastest", "cheapest": "cheapest"}
PREFERRED = "preferred"
"""What clients of the Hugging Face router write for the order that its user has chosen: here the
operator's, which is what they get who write nothing."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model may run, and in which order it is tried.

    Nothing at all means what the settings say, or what is usual where they say nothing either.

    Attributes:
        names: deployments; of a request's route, the others follow in the order of the settings.
        policy: what decides instead of the order.
        is_alone: whether the named ones are the only ones.
    """

    names: tuple[str, ...] = ()
    policy: Policy | None = None
    is_alone: bool = False

    @classmethod
    def alone(cls, name: str) -> "Route":
        """One deployment, and no other where that cannot answer."""
        return cls(names=(name,), is_alone=True)


USUAL = Route()


def split_name(name: str, deployments: Collection[str]) -> tuple[str, Route]:
    """A model's name as requests write it, without and with its route: `org/name:fastest`.

    A suffix that says nothing here is left where it is: it may belong to the name, and where it
    does not, the catalogue drops it, as it is dropped by others.

    Args:
        name: as it was sent.
        deployments: those that may be named: `local`, and every enabled provider.
    """
    bare, colon, suffix = name.rpartition(":")
    word = suffix.casefold()
    if not colon or not bare:
        return name, USUAL
    if word in POLICIES:
        return bare, Route(policy=POLICIES[word])
    if word == PREFERRED:
        return bare, USUAL
    if word in deployments:
        return bare, Route.alone(word)
    return name, USUAL


def wished(
    name: str | None, route: Route, deployments: Collection[str]
) -> tuple[str | None, Route]:
    """A request's model without its suffix, and its route: its own, or else the suffix's.

    Args:
        name: as `split_name` takes it.
        route: of the request, as from its path.
        deployments: likewise.

    Raises:
        UnknownModel: the route begins with what is no deployment here.
    """
    if route is USUAL and name is not None:
        name, route = split_name(name, deployments)
    if route.names and route.names[0] not in deployments:
        raise UnknownModel(
            f"no provider {quoted(route.names[0])} is enabled here; there are "
            f"{', '.join(sorted(deployments))}"
        )
    return name, route


def route_of(words: Sequence[str], deployments: Collection[str]) -> Route:
    """A model's route as the settings have it: names in order, and perhaps a policy among them.

    `["nebius", "local"]` is those two and no other; `["fastest"]` is all, the fastest first;
    `["cheapest", "local", "nebius"]` is those two, the cheaper one first.

    Raises:
        ValueError: a word is neither, two policies are named, or a name comes twice.
    """
    policies = [POLICIES[word] for word in words if word in POLICIES]
    names = tuple(word for word in words if word not in POLICIES)
    if len(policies) > 1:
        raise ValueError("fastest and cheapest cannot both decide; name one of them")
    for name in names:
        if name not in deployments:
            raise ValueError(
                f"{quoted(name)} is no deployment here; there are "
                f"{', '.join(sorted(deployments))}, and the words fastest and cheapest"
            )
    if len(set(names)) < len(names):
        raise ValueError("a deployment is named twice")
    return Route(names, policies[0] if policies else None, is_alone=bool(names))


def chosen(names: Iterable[str], route: Route) -> list[str]:
    """Those of some deployments that a route leaves, in its order."""
    there = list(names)
    first = [name for name in route.names if name in there]
    return first if route.is_alone else [*first, *(name for name in there if name not in first)]
