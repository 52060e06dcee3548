"""Ids of requests."""

import re

from fledge.telemetry.notes import Notes, open_request, request_id, request_notes


def test_the_first_sane_id_wins() -> None:
    assert request_id(None, b"with space", b"second-id", b"third") == "second-id"


def test_ids_are_made_where_none_is_given() -> None:
    made = {request_id(None, b"") for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_outside_of_any_request_nobody_reads_what_is_noted() -> None:
    assert open_request() is None
    request_notes().model = "a/model"
    assert request_notes().model is None
    assert Notes("one").model is None
