"""Money: billionths inside, numbers and texts for people."""

import pytest

from fledge.money import money_of, nanos_of, shown_money


@pytest.mark.parametrize(
    ("nanos", "money", "text"),
    [
        (0, 0.0, "0.00"),
        (1, 1e-9, "0.000000001"),
        (10_000_000, 0.01, "0.01"),
        (2_500_000_000, 2.5, "2.50"),
        (1_500_250_000_000, 1500.25, "1,500.25"),
        (-12_000, -0.000012, "-0.000012"),
    ],
)
def test_the_three_forms_say_the_same(nanos: int, money: float, text: str) -> None:
    assert money_of(nanos) == money
    assert nanos_of(money) == nanos
    assert shown_money(nanos) == text
