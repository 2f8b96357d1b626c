"""The calls of MLflow that the project makes: what was called, in order. It refuses what a server refuses."""

from __future__ import annotations

import re
from typing import Any

CALLS: list[tuple[str, Any]] = []


def set_experiment(experiment_name: str) -> None:
    CALLS.append(("set_experiment", experiment_name))


def start_run(*, run_name: str | None = None) -> None:
    CALLS.append(("start_run", run_name))


def set_tag(key: str, value: str) -> None:
    CALLS.append(("set_tag", (key, value)))


def log_params(params: dict[str, Any]) -> None:
    if len(params) > 100 or any(len(str(value)) > 500 for value in params.values()):
        raise ValueError("at most 100 parameters of at most 500 characters")
    _refuse_names(params)
    CALLS.append(("log_params", params))


def log_metrics(metrics: dict[str, float], *, step: int | None = None) -> None:
    _refuse_names(metrics)
    CALLS.append(("log_metrics", (step, metrics)))


def end_run(status: str = "FINISHED") -> None:
    CALLS.append(("end_run", status))


def _refuse_names(named: dict[str, Any]) -> None:
    wrong = [name for name in named if not re.fullmatch(r"[\w\-. /]+", name)]
    if wrong:
        raise ValueError(f"invalid names: {wrong}")
