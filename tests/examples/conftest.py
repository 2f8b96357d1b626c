"""Modules of examples/, as a user has them on PYTHONPATH."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.support.examples import EXAMPLES, Import


@pytest.fixture
def import_example(monkeypatch: pytest.MonkeyPatch) -> Import:
    """Import a module of an example, here and in the processes that the test starts."""

    def imported(folder: str, module: str) -> ModuleType:
        monkeypatch.setenv("PYTHONPATH", str(EXAMPLES / folder))
        monkeypatch.syspath_prepend(EXAMPLES / folder)
        return importlib.import_module(module)

    return imported
