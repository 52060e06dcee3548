"""The one import of OpenVINO, made silent and frugal first.

Importing `openvino` starts a forked process that resolves an analytics host unless its telemetry
package is missing, so a stub takes that package's place. And oneDNN keeps every primitive it ever
built in a cache that no unloading empties: 103 -> 222 MB in 50 loads with it, 32 -> 35 MB without
(OpenVINO 2026.4). Switching it off costs no speed: each compiled model has a cache of its own.
glibc gives threads heaps of their own, and what is left over in each adds up: after 100 loads of
seven models 65 -> 88 MB with them, 60 -> 61 MB with one heap for all.
All of it must happen before the import, which is why this file does work when it is imported.
"""

import ctypes
import os
import sys
from types import ModuleType

TELEMETRY = "openvino_telemetry"

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""

sys.modules.setdefault(TELEMETRY, ModuleType(TELEMETRY))
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")
if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    libc.mallopt(M_ARENA_MAX, 1)

import openvino  # noqa: E402 - after the lines above, or they do nothing
import openvino.opset15 as opset  # noqa: E402 - likewise

__all__ = ["openvino", "opset"]
