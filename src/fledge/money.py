"""Money: whole billionths of the operator's currency inside, plain numbers for people."""

NANOS = 10**9
"""In one unit of the currency in which the operator gives all prices."""


def nanos_of(money: float) -> int:
    """Billionths, the nearest whole number of them."""
    return round(money * NANOS)


def money_of(nanos: int) -> float:
    """The same as a number for JSON."""
    return nanos / NANOS


def shown_money(nanos: int) -> str:
    """The same for people, exactly: 20.00, 0.000012, 1,500.25."""
    units, part = divmod(abs(nanos), NANOS)
    digits = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{units:,}.{digits}"
