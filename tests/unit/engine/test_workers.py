"""Threads that may be closed while somebody is about to use them."""

import asyncio
import threading

import pytest

from fledge.engine.workers import Workers
from fledge.errors import BackendUnavailable


def test_a_function_is_called_on_a_thread_of_that_name() -> None:
    workers = Workers("some-work")

    def name(prefix: str) -> str:
        return prefix + threading.current_thread().name

    assert asyncio.run(workers.run(name, "on ")).startswith("on some-work")
    workers.close()


def test_closed_threads_are_an_unavailable_model() -> None:
    workers = Workers("some-work")
    workers.close()
    workers.close()
    with pytest.raises(BackendUnavailable, match="unloaded"):
        asyncio.run(workers.run(len, "abc"))


def test_an_error_of_the_function_is_not_taken_for_that() -> None:
    workers = Workers("some-work")

    def fail() -> None:
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        asyncio.run(workers.run(fail))
    workers.close()
