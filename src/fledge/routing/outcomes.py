"""What an error of one place means for the request, and for the place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fledge.errors import (
    BackendUnavailable,
    CannotCarry,
    ComputeError,
    FledgeError,
    ModelLoadError,
    ModelLoading,
    Overloaded,
    ProviderDenied,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)

_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What counts against a place.

    Attributes:
        reason: for listings.
        status: of HTTP, where there was one.
        retry_after_s: when it said that it wants to be asked again.
        is_throttled: it has too much to do, and did not say for how long.
        is_lasting: somebody has to mend it.
    """

    reason: str
    status: int | None = None
    retry_after_s: float | None = None
    is_throttled: bool = False
    is_lasting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an error means.

    Attributes:
        falls_back: another place may be asked; otherwise it is the caller's, or final.
        may_pass: the same place may be asked again later.
        is_retried: it is worth a pause and another round. What is local is not: the engine tells
            its callers itself when to come again, and they wait better than their texts do here.
        fault: what counts against the place; None: nothing does.
        telling: of several errors the one with the largest number is told.
    """

    falls_back: bool = False
    may_pass: bool = False
    is_retried: bool = False
    fault: Fault | None = None
    telling: int = 0


FINAL = Outcome()


class Failed(NamedTuple):
    """A place, and what it failed with."""

    name: str
    error: Exception
    outcome: Outcome


def outcome_of(error: BaseException) -> Outcome:
    """What is known of an error's class; all that is not listed is final."""
    if isinstance(error, ProviderError):
        return _of_provider(error)
    reason = str(error) or type(error).__name__
    if isinstance(error, ConnectionError | TimeoutError):
        fault = Fault(reason=reason)
        return Outcome(falls_back=True, may_pass=True, is_retried=True, fault=fault, telling=5)
    return _of_engine(error, reason)


def told(place: str, error: Exception) -> FledgeError:
    """The error that the caller gets: one of Fledge's own."""
    if isinstance(error, FledgeError):
        return error
    return BackendUnavailable(f"{place} gave no answer ({type(error).__name__})")


def most_telling(failures: Sequence[Failed]) -> Failed:
    """Of what went wrong, what helps the caller most: when it may pass rather than what cannot.

    Of two alike, that of the place that was asked first; of several that cannot carry the request,
    the last.
    """
    best = max(one.outcome.telling for one in failures)
    same = [one for one in failures if one.outcome.telling == best]
    return same[-1] if isinstance(same[-1].error, CannotCarry) else same[0]


def _of_provider(error: ProviderError) -> Outcome:
    if isinstance(error, ProviderRefused) and not isinstance(error, ProviderDenied):
        return FINAL
    reason, status, retry_after_s = str(error), error.status, error.retry_after_s
    if not isinstance(error, ProviderUnavailable):
        fault = Fault(reason=reason, status=status, is_lasting=True)
        return Outcome(falls_back=True, fault=fault, telling=2)
    fault = Fault(
        reason=reason,
        status=status,
        retry_after_s=retry_after_s,
        is_throttled=status == _TOO_MANY_REQUESTS,
    )
    telling = 5 if retry_after_s is None else 6
    return Outcome(falls_back=True, may_pass=True, is_retried=True, fault=fault, telling=telling)


def _of_engine(error: BaseException, reason: str) -> Outcome:
    if isinstance(error, CannotCarry):
        return Outcome(falls_back=True, telling=1)
    if isinstance(error, ModelLoading):
        return Outcome(falls_back=True, may_pass=True, telling=8)
    if isinstance(error, Overloaded):
        return Outcome(falls_back=True, may_pass=True, telling=7)
    if isinstance(error, BackendUnavailable):
        return Outcome(falls_back=True, may_pass=True, fault=Fault(reason=reason), telling=4)
    if isinstance(error, ComputeError | ModelLoadError):
        # A load is not counted: the lifecycle remembers by itself what failed, and for how long.
        fault = Fault(reason=reason) if isinstance(error, ComputeError) else None
        return Outcome(falls_back=True, fault=fault, telling=3)
    return FINAL
