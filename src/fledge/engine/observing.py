"""What the lane shows of its work, in numbers that may become metrics: no texts, no tenants."""

from typing import Protocol


class LaneObserver(Protocol):
    """Is told of batches by the lane's thread, which computes nothing meanwhile."""

    def on_batch(self, model_id: str, rows: int, tokens: int, fill: float, seconds: float) -> None:
        """A batch was computed; one that failed is not told of.

        Args:
            model_id: of the model that computed it.
            rows: texts in it.
            tokens: of all of them, without padding: there is none outside attention.
            fill: its cost over the budget that it might have had, in about 0 to 1. A single row
                may cost more than the budget, so there is no upper end. Packed rows are not
                padded, so tokens / (rows x longest) would say only how alike the lengths were;
                this says whether enough was waiting to fill the time that a batch may take.
            seconds: that computing took.
        """
        ...


class Unobserved:
    """An observer that makes nothing of it."""

    def on_batch(self, model_id: str, rows: int, tokens: int, fill: float, seconds: float) -> None:
        """Nothing."""
