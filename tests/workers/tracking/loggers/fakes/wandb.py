"""The calls of Weights & Biases that the project makes: what was called, in order."""

from __future__ import annotations

import json
from typing import Any

CALLS: list[tuple[str, Any]] = []


class Run:
    def define_metric(self, name: str, *, step_metric: str | None = None) -> None:
        CALLS.append(("define_metric", (name, step_metric)))

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        CALLS.append(("log", data))

    def finish(self, exit_code: int | None = None) -> None:
        CALLS.append(("finish", exit_code))


def init(
    *, project: str | None = None, id: str | None = None, resume: str | None = None, name: str | None = None,
    dir: str | None = None, config: dict[str, Any] | None = None,
) -> Run:  # fmt: skip
    json.dumps(config)  # as it is sent
    CALLS.append(("init", {"project": project, "id": id, "resume": resume, "name": name, "dir": dir, "config": config}))
    return Run()
