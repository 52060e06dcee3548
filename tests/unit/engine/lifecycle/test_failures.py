"""Failures are told apart, and what callers are told of them says nothing of this machine."""

import errno
from pathlib import Path
from typing import get_args

import pytest

from fledge.engine.lifecycle.failures import COOL_DOWN_S, ERRORS, Failure, classify, public_reason
from fledge.errors import (
    ComputeError,
    CorruptModel,
    ModelGated,
    ModelLoadError,
    ModelNotFound,
    ModelOffline,
    OutOfMemory,
    UnsupportedModel,
)
from fledge.types import FailureKind


class OwnKind(CorruptModel):
    """A more special error of the engine."""


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelNotFound("x"), "not_found"),
        (ModelGated("x"), "gated"),
        (ModelOffline("x"), "offline"),
        (CorruptModel("x"), "corrupt"),
        (OwnKind("x"), "corrupt"),
        (UnsupportedModel("x"), "unsupported"),
        (OutOfMemory("x"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("Exception from src/core: std::bad_alloc"), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (caused(ModelLoadError("cannot compile"), RuntimeError("bad_alloc")), "out_of_memory"),
        (caused(CorruptModel("x"), MemoryError()), "corrupt"),
        (OSError(errno.EIO, "Input/output error"), "unknown"),
        (RuntimeError("boom"), "unknown"),
        (ModelLoadError("x"), "unknown"),
        (ComputeError("x"), "unknown"),
    ],
)
def test_the_kind_of_a_failure_is_that_of_its_class(error: Exception, kind: FailureKind) -> None:
    assert classify(error) == kind


def test_an_error_that_is_its_own_cause_has_a_kind_all_the_same() -> None:
    error = ModelLoadError("x")
    error.__cause__ = error
    assert classify(error) == "unknown"


def test_every_kind_has_a_cool_down_and_a_class_of_its_own() -> None:
    kinds = set(get_args(FailureKind))
    assert set(COOL_DOWN_S) == set(ERRORS) == kinds
    assert len(set(ERRORS.values())) == len(kinds)
    for kind, family in ERRORS.items():
        assert classify(family("x")) == kind


def test_what_may_pass_by_itself_is_tried_again_sooner_than_what_somebody_must_mend() -> None:
    passing = {COOL_DOWN_S[kind] for kind in ("offline", "out_of_memory", "unknown")}
    assert max(passing) < min(COOL_DOWN_S["not_found"], COOL_DOWN_S["corrupt"])


def test_a_failure_is_raised_as_a_new_error_that_says_when_to_come_back() -> None:
    failure = Failure("gated", "accept its conditions", until_s=100.0)
    first, second = failure.error(40.0), failure.error(130.0)
    assert (type(first), str(first)) == (ModelGated, "accept its conditions")
    assert (first.retry_after_s, second.retry_after_s) == (60.0, 0.0)
    assert first is not second


WORDS = {
    Path("/data/models/mine"): "mine",
    Path("/home/me/.cache/huggingface"): "the hub's cache",
    Path("/home/me"): "~",
    Path("/"): "never",
}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("/data/models/mine/config.json: cut off", "mine/config.json: cut off"),
        ("/data/models/mine is empty", "mine is empty"),
        ("/data/models/mine", "mine"),
        ("'/data/models/mine'", "'mine'"),
        ("in (/home/me/models/x.json)", "in (~/models/x.json)"),
        (
            "/home/me/.cache/huggingface/hub/models--a--b/blobs/12 is short",
            "the hub's cache/hub/models--a--b/blobs/12 is short",
        ),
        ("/data/models/mine2/config.json", "config.json"),
        ("/mnt/home/me/x", "x"),
        ("there is no folder /srv/secret/place", "there is no folder place"),
        (r"C:\Users\me\model\config.json is bad", "config.json is bad"),
        ("at https://huggingface.co/org/name and http://127.0.0.1:1/a/b", None),
        ("org/name/config.json and tokens/s and 1/2/3 and ./here/x", None),
        ("layer.0/attention", None),
    ],
)
def test_folders_of_this_machine_are_not_told(message: str, told: str | None) -> None:
    assert public_reason(CorruptModel(message), WORDS) == (message if told is None else told)


def test_a_folder_is_known_by_the_name_that_it_is_a_link_to_as_well(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    words = {link: "the model"}
    assert public_reason(CorruptModel(f"{real}/a.json"), words) == "the model/a.json"
    assert public_reason(CorruptModel(f"{link}/a.json"), words) == "the model/a.json"


def test_words_are_taken_as_they_are() -> None:
    words = {Path("/data/x"): r"a\1"}
    assert public_reason(CorruptModel("/data/x/y"), words) == r"a\1/y"


def test_without_any_known_folder_the_rest_is_hidden_all_the_same() -> None:
    assert public_reason(CorruptModel("/data/x/y z"), {}) == "y z"


@pytest.mark.parametrize("error", [KeyError("/home/me/secret"), CorruptModel(""), MemoryError()])
def test_of_an_unexpected_error_only_the_class_is_told(error: Exception) -> None:
    told = public_reason(error, {})
    assert type(error).__name__ in told
    assert "the server's log says why" in told
    assert "secret" not in told
