"""The models of a folder, looked through again and again beside the event loop."""

import threading
from collections.abc import Callable, Sequence

from fledge.types import ModelEntry

PATIENCE_S = 0.05
"""A thousand folders on a disk take a few milliseconds."""


class ModelsDir:
    """What a look found the last time; each call begins another one, in a thread.

    A disk answers within the moment that a call waits, so a new folder is there at once. Storage
    that takes seconds is not waited for.

    Args:
        look: finds the models; called at once, then in threads, one at a time.
    """

    def __init__(self, look: Callable[[], Sequence[ModelEntry]]) -> None:
        self._look = look
        self._found = look()
        self._thread: threading.Thread | None = None

    def __call__(self) -> Sequence[ModelEntry]:
        """The models, as they were when the last look ended, mostly just now."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._look_again, name="fledge-models-dir", daemon=True
            )
            self._thread.start()
            self._thread.join(PATIENCE_S)
        return self._found

    def _look_again(self) -> None:
        self._found = self._look()
