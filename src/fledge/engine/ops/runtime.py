"""The one import of OpenVINO, made silent and frugal first.

Importing `openvino` starts a forked process that resolves an analytics host unless its telemetry
package is missing, so a stub takes that package's place. And oneDNN keeps every primitive it ever
built in a cache that no unloading empties: 103 -> 222 MB in 50 loads with it, 32 -> 35 MB without
(OpenVINO 2026.4). Switching it off costs no speed: each compiled model has a cache of its own.
Both must happen before the import, which is why this file does work when it is imported.
"""

import os
import sys
from types import ModuleType

TELEMETRY = "openvino_telemetry"

sys.modules.setdefault(TELEMETRY, ModuleType(TELEMETRY))
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")

import openvino  # noqa: E402 - after the two lines above, or they do nothing
import openvino.opset15 as opset  # noqa: E402 - likewise

__all__ = ["openvino", "opset"]
