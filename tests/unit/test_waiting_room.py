"""What waits for models to load is bounded, and always given back."""

import pytest

from fledge.errors import Overloaded
from fledge.waiting_room import WaitingRoom

FORTY_TOKENS = ["x" * 156]


def test_beyond_the_limit_a_request_is_told_to_come_back() -> None:
    room = WaitingRoom(100)
    with room.place(FORTY_TOKENS), room.place(FORTY_TOKENS):
        with (
            pytest.raises(Overloaded, match="about 80 tokens are waiting") as caught,
            room.place(FORTY_TOKENS),
        ):
            pass
        assert caught.value.retry_after_s > 0
    with room.place(FORTY_TOKENS):
        pass


def test_one_request_alone_may_be_as_large_as_it_likes() -> None:
    room = WaitingRoom(1)
    with room.place(["x" * 10_000]):
        pass


def test_a_place_is_given_back_when_the_waiting_fails() -> None:
    room = WaitingRoom(50)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), room.place([[1, 2, 3] * 40]):
            raise ZeroDivisionError
    with room.place(FORTY_TOKENS):
        pass
