"""rembg's session classes, without the rest of rembg.

`import rembg` imports its matting, which compiles half a minute of numba code on a machine that has not
done so before and takes 140 MB. Most requests need none of it, so `rembg.sessions` is imported as part of a
package whose own module was not run; `rembg.bg` can still be imported when matting is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any


def session_classes() -> dict[str, type[Any]]:
    """rembg's session classes by the name of their model. Imports ONNX Runtime and SciPy."""
    if "rembg" not in sys.modules:
        spec = importlib.util.find_spec("rembg")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("rembg is not installed")
        package = types.ModuleType("rembg")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["rembg"] = package
    classes: dict[str, type[Any]] = importlib.import_module("rembg.sessions").sessions
    return classes
