"""What requests and settings may say about where a model runs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.errors import UnknownModel
from fledge.routing.wishes import USUAL, Route, chosen, route_of, split_name, wished

DEPLOYMENTS = ("local", "nebius", "scaleway")


@pytest.mark.parametrize(
    ("name", "bare", "route"),
    [
        ("org/name", "org/name", USUAL),
        ("org/name:local", "org/name", Route.alone("local")),
        ("org/name:nebius", "org/name", Route.alone("nebius")),
        ("org/name:NEBIUS", "org/name", Route.alone("nebius")),
        ("org/name:fastest", "org/name", Route(policy="fastest")),
        ("org/name:cheapest", "org/name", Route(policy="cheapest")),
        ("org/name:preferred", "org/name", USUAL),
        ("org/name:latest", "org/name:latest", USUAL),
        ("org/name:", "org/name:", USUAL),
        (":fastest", ":fastest", USUAL),
        ("bge-m3:567m:fastest", "bge-m3:567m", Route(policy="fastest")),
        ("", "", USUAL),
    ],
)
def test_a_suffix_says_where_if_it_says_anything(name: str, bare: str, route: Route) -> None:
    assert split_name(name, DEPLOYMENTS) == (bare, route)


@settings(deadline=None)
@given(st.text())
def test_no_name_breaks_it_and_none_grows(name: str) -> None:
    bare, _ = split_name(name, DEPLOYMENTS)
    assert name.startswith(bare)


def test_a_provider_that_is_not_enabled_is_no_suffix() -> None:
    assert split_name("org/name:together", DEPLOYMENTS) == ("org/name:together", USUAL)


@pytest.mark.parametrize(
    ("words", "route"),
    [
        ([], USUAL),
        (["nebius", "local"], Route(("nebius", "local"), is_alone=True)),
        (["local"], Route.alone("local")),
        (["fastest"], Route(policy="fastest")),
        (["cheapest", "local", "nebius"], Route(("local", "nebius"), "cheapest", is_alone=True)),
    ],
)
def test_settings_name_places_in_order_and_perhaps_a_policy(words: list[str], route: Route) -> None:
    assert route_of(words, DEPLOYMENTS) == route


@pytest.mark.parametrize("words", [["fastest", "cheapest"], ["together"], ["local", "local"]])
def test_a_route_that_cannot_be_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"both decide|no deployment here|twice"):
        route_of(words, DEPLOYMENTS)


def test_the_named_come_first_and_alone_if_they_are_to_be() -> None:
    assert chosen(DEPLOYMENTS, Route(("scaleway",))) == ["scaleway", "local", "nebius"]
    assert chosen(DEPLOYMENTS, Route.alone("scaleway")) == ["scaleway"]
    assert chosen(DEPLOYMENTS, Route(("together",))) == list(DEPLOYMENTS)
    assert chosen(DEPLOYMENTS, Route.alone("together")) == []


def test_a_path_counts_more_than_a_suffix_and_names_what_there_is() -> None:
    far = Route.alone("nebius")
    assert wished("org/name:local", far, DEPLOYMENTS) == ("org/name:local", far)
    assert wished("org/name:local", USUAL, DEPLOYMENTS) == ("org/name", Route.alone("local"))
    assert wished(None, far, DEPLOYMENTS) == (None, far)
    assert wished(None, USUAL, DEPLOYMENTS) == (None, USUAL)
    with pytest.raises(UnknownModel, match='"together" is enabled here; there are local'):
        wished("org/name", Route.alone("together"), DEPLOYMENTS)
