"""The one place that loads pyarrow: it comes with the extra `files`, and takes time to import."""

import importlib
from typing import Any

from fledge.errors import FileFormatError


def arrow(module: str = "pyarrow") -> Any:  # Any: pyarrow has no types of its own
    """pyarrow, or one of its modules.

    Raises:
        FileFormatError: pyarrow is not installed; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise FileFormatError("parquet files need pyarrow: pip install pyarrow") from None
