"""A folder of models on slow storage: nobody waits for it, and what is new is found yet."""

import threading
from collections.abc import Sequence

from fledge.catalog.models_dir import ModelsDir
from fledge.types import ModelEntry

OLD, NEW = ModelEntry(id="old"), ModelEntry(id="new")


class Storage:
    """Answers at once, or when a test lets it.

    Attributes:
        models: what is on it.
        looks: how often somebody looked.
        is_ready: unset, a look waits.
    """

    def __init__(self) -> None:
        self.models: list[ModelEntry] = [OLD]
        self.looks = 0
        self.is_ready = threading.Event()
        self.is_ready.set()

    def look(self) -> Sequence[ModelEntry]:
        self.is_ready.wait(10)
        self.looks += 1
        return list(self.models)


def test_a_call_answers_from_the_last_look_and_begins_one_more() -> None:
    storage = Storage()
    models_dir = ModelsDir(storage.look)
    storage.is_ready.clear()
    storage.models.append(NEW)

    assert [list(models_dir()) for _ in range(5)] == [[OLD]] * 5
    storage.is_ready.set()
    while storage.looks < 2:
        pass
    while list(models_dir()) != [OLD, NEW]:
        pass


def test_what_is_new_is_found_at_once_where_the_storage_is_fast() -> None:
    storage = Storage()
    models_dir = ModelsDir(storage.look)
    storage.models.append(NEW)
    assert list(models_dir()) == [OLD, NEW]


def test_looks_do_not_pile_up() -> None:
    storage = Storage()
    models_dir = ModelsDir(storage.look)
    storage.is_ready.clear()
    before = threading.active_count()
    for _ in range(50):
        models_dir()
    assert threading.active_count() == before + 1
    storage.is_ready.set()
