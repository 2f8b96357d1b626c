"""Imports that the garbage collector leaves out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """\
import gc, json, sys
sys.path.insert(0, sys.argv[1])
from workers.system.imports import import_for_good
found = [gc.get_freeze_count() == 0, import_for_good("colorsys", "wave").__name__]
found += [gc.isenabled(), gc.get_freeze_count() > 1000]
gc.disable()
import_for_good("colorsys")
print(json.dumps([*found, gc.isenabled()]))
"""


def test_what_is_imported_is_frozen_and_the_collector_is_as_it_was() -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[3])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout) == [True, "wave", True, True, False]
