"""How long a place takes for a request of some texts, from what it took lately."""

KEPT = 0.9
"""Of the weight of older measurements, with each new one: about the last twenty count."""


class Latency:
    """A line through the last measurements: seconds by texts, old ones counting less.

    A place that answers bulk has a long mean and may still be the faster one for a query, so a mean
    alone would compare what was asked of places and not how fast they are.
    """

    __slots__ = ("_n", "_nn", "_nt", "_per_text", "_t", "_weight")

    def __init__(self) -> None:
        self._weight = self._n = self._nn = self._t = self._nt = self._per_text = 0.0

    @property
    def request_s(self) -> float | None:
        """Seconds of a request, the weighted mean; None: nothing was measured."""
        return self._t / self._weight if self._weight else None

    @property
    def text_s(self) -> float | None:
        """Seconds of a request by its texts, the weighted mean; None: likewise."""
        return self._per_text / self._weight if self._weight else None

    def add(self, texts: int, seconds: float) -> None:
        """One measurement."""
        self._weight = KEPT * self._weight + 1
        self._n = KEPT * self._n + texts
        self._nn = KEPT * self._nn + texts * texts
        self._t = KEPT * self._t + seconds
        self._nt = KEPT * self._nt + texts * seconds
        self._per_text = KEPT * self._per_text + seconds / texts

    def add_unfinished(self, texts: int, seconds: float) -> None:
        """A request that was given up: it tells something only where it took long already."""
        expected_s = self.expected_s(texts)
        if expected_s is None or seconds > expected_s:
            self.add(texts, seconds)

    def expected_s(self, texts: int) -> float | None:
        """What a request may take; None: nothing was measured."""
        if not self._weight:
            return None
        n, t = self._n / self._weight, self._t / self._weight
        variance = self._nn / self._weight - n * n
        # All of one size: what more texts would take is a guess, and fewer save little.
        if variance <= 1e-6 * n * n:
            return t * max(1.0, texts / n)
        slope = max((self._nt / self._weight - n * t) / variance, 0.0)
        base = t - slope * n
        if base < 0.0:
            return t * texts / n
        return base + slope * texts
