"""What Hugging Face requests say of waiting for a cold model, and of answers computed before.

The headers `x-wait-for-model` and `x-use-cache`, and the same words under `options`, were
documented until April 2025 and are still sent; source: huggingface_hub 0.27 and
@huggingface/inference 2, which retry a 503 with the first of them.
"""

from typing import Any

from fledge.api.runner import Call

WAIT_OPTION, CACHE_OPTION = "wait_for_model", "use_cache"
WAIT_HEADER = "x-wait-for-model"
CACHE_HEADER = "x-use-cache"
_YES = ("true", "1")
_NO = ("false", "0")


def patience_s(call: Call, options: Any) -> float:
    """Seconds to wait: all that loading may take, none, or a moment where the client says nothing.

    Not none in that case: an official client repeats a request that got a 503 without a pause, for
    ever. Of the two places, the one that asks to wait wins.
    """
    body = options.get(WAIT_OPTION) if isinstance(options, dict) else None
    wishes = {_wish(call.headers.get(WAIT_HEADER)), _wish(body)}
    if True in wishes:
        return call.settings.load_timeout_s
    return 0.0 if False in wishes else call.settings.cold_start_hold_s


def use_cache(call: Call, options: Any = None) -> bool:
    """Whether an answer that was computed before will do; of the two places, the one that wants a
    new one wins."""
    body = options.get(CACHE_OPTION) if isinstance(options, dict) else None
    return False not in (_wish(call.headers.get(CACHE_HEADER)), _wish(body))


def unused_options(options: Any, *used: str) -> list[str]:
    """What stands under `options` and means nothing on a route, to be told among the ignored
    fields.

    Args:
        options: the field.
        used: those that the route knows.
    """
    if options is None:
        return []
    if not isinstance(options, dict):
        return ["options"]
    return [f"options.{name}" for name in options if name not in used]


def _wish(value: Any) -> bool | None:
    """What one place says; None: nothing that can be understood."""
    word = str(value).strip().lower()
    return True if word in _YES else False if word in _NO else None
