"""Settings -> providers: who may be asked, with which key, and for which models.

A provider is enabled by the settings and by nothing else: a key in the environment does nothing.
Keys are read here, once, and end in `Provider.key`, which shows them to nobody.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from fledge.catalog.listed import ListedProvider
from fledge.catalog.mapped import with_provider_ids
from fledge.catalog.shipped import hosted_entries
from fledge.errors import SettingsError
from fledge.money import nanos_of
from fledge.names import quoted
from fledge.providers.presets import PRESETS, SHAPES, Preset
from fledge.providers.provider import Provider
from fledge.routing.router import PlaceState
from fledge.settings import Settings
from fledge.settings_providers import ProviderSettings
from fledge.types import LOCAL, ModelEntry

_MOST_KEY_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A provider that may be asked.

    Attributes:
        provider: how.
        monthly_budget_nanos: what it may cost in a calendar month, in billionths; None: as much as
            it does.
    """

    provider: Provider
    monthly_budget_nanos: int | None = None


def enabled_providers(
    settings: Settings, environment: Mapping[str, str] = os.environ
) -> dict[str, Remote]:
    """The providers that the settings enable, by name, in the order in which they are tried.

    Raises:
        SettingsError: one is unknown, or its key is missing: all that there is of it, a line each,
            and nothing of a key.
    """
    read = read_providers(settings, environment)
    mistakes = [str(one) for one in read.values() if isinstance(one, SettingsError)]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return {name: one for name, one in read.items() if isinstance(one, Remote)}


def read_providers(
    settings: Settings, environment: Mapping[str, str] = os.environ
) -> dict[str, Remote | SettingsError]:
    """Likewise; of one that cannot be asked as it is set, what is wrong with it."""
    found: dict[str, Remote | SettingsError] = {}
    for name in settings.providers.names():
        try:
            found[name] = _remote(name, settings, environment)
        except SettingsError as error:
            found[name] = error
    return found


def with_providers(settings: Settings, entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """A catalogue's entries with what the enabled providers call them, and the models that only
    those have.

    Raises:
        SettingsError: a name is no provider's, or an enabled provider has none of the models.
    """
    enabled = settings.providers.names()
    if settings.catalog == "shipped":
        hosted = hosted_entries()
        there = [one for one in hosted if not one.provider_ids.keys().isdisjoint(enabled)]
        entries = [*entries, *there]
    _check_names(settings)
    mapped = with_provider_ids(
        entries,
        _called(settings, enabled),
        runs_locally=[
            name for name, section in settings.model.items() if LOCAL in (section.route or ())
        ],
    )
    busy = {provider for entry in mapped for provider in entry.provider_ids}
    idle = [name for name in enabled if name not in busy]
    if idle:
        raise SettingsError(
            "\n".join(
                f"providers.{name}: no model is known there; say which, as "
                f'[providers.{name}.models] with "org/name" = "its name there"'
                for name in idle
            )
        )
    return mapped


def listed_providers(entry: ModelEntry, states: Iterable[PlaceState]) -> list[ListedProvider]:
    """The providers among a model's places, as listings show them."""
    return [
        ListedProvider(
            name=one.name,
            provider_id=entry.provider_ids[one.name],
            is_live=not (reason := _why_not(one)),
            reason=reason,
            latency_ms=one.health.request_ms,
            price_nanos_per_million_tokens=one.price_nanos_per_million_tokens,
            space="same" if one.relation == "reference" else one.relation,
            least_cosine=one.verdict.least_cosine if one.verdict else None,
        )
        for one in states
        if one.is_remote
    ]


def _why_not(place: PlaceState) -> str:
    """Why nothing is sent there now; empty: it is."""
    left = place.budget_left_nanos
    if left is not None and left <= 0:
        return "what it may cost this month is spent"
    if place.health.state == "resting":
        return place.health.last_error or "it rests after failures"
    return ""


def _called(settings: Settings, enabled: Sequence[str]) -> dict[str, dict[str, str]]:
    """Model -> enabled provider -> what it calls the model; a model's own section counts more."""
    called: dict[str, dict[str, str]] = {}
    for provider in enabled:
        for model, id in settings.providers.section(provider).models.items():
            called.setdefault(model, {})[provider] = id
    for model, section in settings.model.items():
        own = {provider: id for provider, id in section.providers.items() if provider in enabled}
        if own:
            called.setdefault(model, {}).update(own)
    return called


def _check_names(settings: Settings) -> None:
    """Refuse what the sections of models say of providers that nobody knows."""
    known = [*dict.fromkeys((*PRESETS, *(settings.providers.model_extra or {})))]
    mistakes = [
        f'model."{model}".providers: {_unknown(name, known)}'
        for model, section in settings.model.items()
        for name in section.providers
        if name not in known
    ]
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def _remote(name: str, settings: Settings, environment: Mapping[str, str]) -> Remote:
    section = settings.providers.section(name)
    preset = _preset(name, section)
    base_url = section.base_url or preset.base_url
    if base_url is None:
        raise SettingsError(f"providers.{name}.base_url is missing: say where it is")
    if urlsplit(base_url).scheme.lower() == "http" and not settings.allow_private_providers:
        raise SettingsError(
            f"providers.{name}.base_url: over http, anybody on the way reads texts and key; give "
            "an https address, or set allow_private_providers where it is in your own network"
        )
    provider = Provider(
        name=name,
        shape=preset.shape,
        base_url=base_url,
        key=_key(name, section, preset, environment),
        limits=preset.limits,
        max_concurrent_requests=section.max_concurrent_requests or preset.max_concurrent_requests,
        says_400_while_loading=preset.says_400_while_loading,
        ca_file=section.ca_file.expanduser() if section.ca_file else None,
        price_nanos_per_million_tokens=_nanos(section.price_per_million_tokens),
    )
    if section.timeout_s is not None:
        provider = replace(provider, timeout_s=section.timeout_s)
    if section.monthly_budget is not None and section.price_per_million_tokens is None:
        raise SettingsError(
            f"providers.{name}.monthly_budget: without price_per_million_tokens nobody knows what "
            "is spent"
        )
    return Remote(provider=provider, monthly_budget_nanos=_nanos(section.monthly_budget))


def _preset(name: str, section: ProviderSettings) -> Preset:
    """What holds unless the section says otherwise."""
    named = PRESETS.get(name)
    if section.shape is None:
        if named is not None:
            return named
        raise SettingsError(
            f"providers.{name}: {_unknown(name, PRESETS)}; one of your own needs a section "
            f"[providers.{name}] with shape and base_url"
        )
    if section.shape not in SHAPES:
        raise SettingsError(
            f"providers.{name}.shape: no shape {quoted(section.shape)} is known; "
            f"{_those(section.shape, SHAPES)}"
        )
    shape = SHAPES[section.shape]
    if named is None:
        return shape
    return replace(shape, base_url=named.base_url, key_variable=named.key_variable)


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"no provider {quoted(name)} is known; {_those(name, known)}"


def _those(name: str, known: Iterable[str]) -> str:
    """What was probably meant, and what there is."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? There" if near else "there"
    return f"{hint} are {', '.join(known)}"


def _key(
    name: str, section: ProviderSettings, preset: Preset, environment: Mapping[str, str]
) -> SecretStr | None:
    if section.api_key_file is not None:
        return SecretStr(_read_key(name, section.api_key_file))
    variable = section.api_key_env or preset.key_variable
    if variable is None:
        return None
    key = environment.get(variable, "").strip()
    if not key:
        raise SettingsError(
            f"providers.{name}: the variable {variable} is not set; put the key into it, or say "
            "where else it is: api_key_env names another variable, api_key_file a file"
        )
    return SecretStr(key)


def _read_key(name: str, path: Path) -> str:
    """The path is not told: somebody may have put the key itself there."""
    place = f"providers.{name}.api_key_file"
    try:
        with path.expanduser().open("rb") as file:
            text = file.read(_MOST_KEY_BYTES + 1)
        key = text.decode("ascii").strip()
    except OSError as error:
        raise SettingsError(f"{place} cannot be read: {error.strerror}") from None
    except ValueError:
        key, text = "", b""
    if not key or len(text) > _MOST_KEY_BYTES:
        raise SettingsError(f"{place}: the file must hold the key, and nothing else")
    return key


def _nanos(money: float | None) -> int | None:
    return None if money is None else nanos_of(money)
