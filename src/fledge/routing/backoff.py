"""How long to pause before places that have failed are asked again."""

from collections.abc import Callable

FIRST_PAUSE_S = 0.2


def pause_s(number: int, random: Callable[[], float], *, longest_s: float) -> float:
    """Seconds before the next round: twice as long each time, and at least half of that.

    What failed for many at once must not be asked again by all of them at once.

    Args:
        number: how many rounds there were; at least 1.
        random: between 0 and 1.
        longest_s: no pause is longer.
    """
    whole_s = min(FIRST_PAUSE_S * 2.0 ** (number - 1), longest_s)
    return whole_s * (1 + random()) / 2
