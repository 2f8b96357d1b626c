"""Import large packages at less cost in processor time."""

from __future__ import annotations

import gc
import importlib
from types import ModuleType


def import_for_good(*names: str) -> ModuleType:
    """Import modules and return the last one; the garbage collector leaves out all objects that exist by then.

    It would look at them, which stay, many times while torch is imported, and once more when the process ends: together
    a quarter of the processor time that a command needs to start and end.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            module = importlib.import_module(name)
        gc.freeze()
    finally:
        if collects:
            gc.enable()
    return module
