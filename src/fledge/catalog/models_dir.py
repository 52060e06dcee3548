"""The models of a folder, looked through again and again beside the event loop."""

import threading
from collections.abc import Callable, Sequence

from fledge.types import ModelEntry


class ModelsDir:
    """What a slow look found the last time; each call begins another one, in a thread.

    The folder may be on storage that takes seconds to answer, and nobody is to wait for it.

    Args:
        look: finds the models; called at once, then in threads, one at a time.
    """

    def __init__(self, look: Callable[[], Sequence[ModelEntry]]) -> None:
        self._look = look
        self._found = look()
        self._thread: threading.Thread | None = None

    def __call__(self) -> Sequence[ModelEntry]:
        """The models, as they were when the last look ended."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._look_again, name="fledge-models-dir", daemon=True
            )
            self._thread.start()
        return self._found

    def _look_again(self) -> None:
        self._found = self._look()
