"""Text to vectors, on the machine at hand.

    import fledge

    with fledge.load() as model:
        vectors = model.embed(["a text", "another one"])

The names below are the Python API; whatever is not among them may change without notice.
"""

from importlib.metadata import PackageNotFoundError, version

from fledge.errors import FledgeError, InvalidRequest, ModelLoadError, SettingsError
from fledge.library import Model, Ranked, load
from fledge.types import ModelCard

__all__ = [
    "FledgeError",
    "InvalidRequest",
    "Model",
    "ModelCard",
    "ModelLoadError",
    "Ranked",
    "SettingsError",
    "__version__",
    "load",
]

try:
    __version__ = version("fledge")
except PackageNotFoundError:  # a source tree that is on the path and not installed
    __version__ = "0+unknown"
