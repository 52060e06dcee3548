"""An unmodified `huggingface_hub`: a JSON job on each line in, an answer on each line out.

Which one is for `PYTHONPATH` to say: this file runs in a process of its own.
"""

import dataclasses
import json
import sys
from typing import Any

import huggingface_hub
import numpy as np


def plain(value: Any) -> Any:
    """An answer of the client as JSON takes it."""
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "shape": value.shape, "numbers": value.tolist()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """What one call came to."""
    try:
        client = huggingface_hub.InferenceClient(**job["client"])
        return {"value": plain(getattr(client, job["method"])(**job["arguments"]))}
    except Exception as error:  # noqa: BLE001 - whatever the client raises is the answer
        return {
            "error": {
                "kinds": [kind.__name__ for kind in type(error).__mro__],
                "message": str(error),
                "status": getattr(getattr(error, "response", None), "status_code", None),
                "request_id": getattr(error, "request_id", None),
            }
        }


def say(value: dict[str, Any]) -> None:
    """One line out, at once."""
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    say({"version": huggingface_hub.__version__})
    for line in sys.stdin:
        say(answer(json.loads(line)))
