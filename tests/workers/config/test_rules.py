"""Rules between settings: every one is broken once, and its message says what to type instead."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

import dni.data
import dni.experimental
import dni.loss_function
import dni.lr_schedule
import dni.methods.base
import dni.models
import dni.optimizers
import dni.predictors.base
import workers.comm.transports.base
import workers.config.validation.check
from dni.errors import ConfigError
from tests.support.options import from_words
from tests.support.refusals import refusal_of
from workers.config.convert import from_any
from workers.config.validation.check import check

RULES = Path(workers.config.validation.check.__file__).parent
PARTS_OF_DNI = [Path(part.__path__[0]) for part in (dni.data, dni.experimental, dni.models)]
TRANSPORTS = Path(workers.comm.transports.base.__file__).parent
METHODS_OF_DNI, PREDICTORS = Path(dni.methods.base.__file__).parent, Path(dni.predictors.base.__file__).parent

EXTERNAL = "launch.mode=external stages=2"

#: For every rule: settings that break it, and the whole message.
REFUSED: dict[str, str] = {
    overrides: message
    for file in sorted((Path(__file__).parent / "refused").glob("*.yaml"))
    for overrides, message in yaml.safe_load(file.read_text()).items()
}


def refused(overrides: str) -> pytest.ExceptionInfo[ConfigError]:
    with pytest.raises(ConfigError) as info:
        check(from_any(from_words(overrides)))
    return info


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_broken_rule_says_what_to_type(overrides: str) -> None:
    assert str(refused(overrides).value) == REFUSED[overrides]


@pytest.mark.parametrize(
    "overrides",
    [
        "evaluate.probe=9",
        "evaluate.probe=9 time.method=full",
        "evaluate.probe=9 model.kind=mlp",
        "evaluate.probe=9 stages=1 time.method=truncated",
        "evaluate.probe=9 data.kind=seqmnist time.method=full",
        "evaluate.probe=9 data.kind=repeat_copy data.length=32 data.window=4",
    ],
)
def test_a_probe_of_either_cut_can_be_run(overrides: str) -> None:
    assert refusal_of(check, from_any(from_words(overrides))) is None


@pytest.mark.parametrize(
    "overrides",
    [
        f"{EXTERNAL} transport.peers=[dni-0.dni:7000,dni-1.dni:7000] transport.insecure=true",
        f"{EXTERNAL} transport.peers=[a:1,b:1] transport.tls.cert=c transport.tls.key=k transport.tls.ca=a run_id=x",
        "launch.mode=external stages=3 transport.bind=0.0.0.0:7000 transport.insecure=true",
    ],
)
def test_stages_on_several_machines_can_be_run(overrides: str) -> None:
    assert refusal_of(check, from_any(from_words(overrides))) is None


def raised_in(paths: Iterable[Path]) -> set[tuple[Path, int]]:
    """File and line of every `raise ConfigError` in these files."""
    return {
        (path, node.lineno)
        for path in paths
        for node in of_rules(path)
        if isinstance(node, ast.Raise) and "ConfigError" in ast.unparse(node)
    }


def checks_of(paths: Iterable[Path]) -> set[tuple[Path, int]]:
    """File and line of every `raise` in the check methods of these files, whose classes raise elsewhere, too."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith(("check", "_check")):
                if node.name == "check_input":
                    continue  # tests/workers/runtime/test_forward_unlocked.py
                raised = (each for each in ast.walk(node) if isinstance(each, ast.Raise))
                found |= {(path, each.lineno) for each in raised}
    return found


def of_rules(path: Path) -> Iterable[ast.AST]:
    """All nodes of a file except in functions that inspect this machine, which have their own tests."""
    tree = ast.parse(path.read_text())
    elsewhere = {"check_machine", "credentials"}  # test_nccl, test_tls
    skipped = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in elsewhere]
    excluded = {part for node in skipped for part in ast.walk(node)}
    return [node for node in ast.walk(tree) if node not in excluded]


@pytest.mark.long
def test_every_rule_is_broken_once() -> None:
    ends = [refused(overrides).traceback[-1] for overrides in REFUSED]
    broken = {(Path(end.path), end.lineno + 1) for end in ends}
    elsewhere = {"pipelines.py", "pipelined.py"}  # tests/workers/config/test_pipeline_rules.py
    rules = [path for folder in (RULES, METHODS_OF_DNI, PREDICTORS) for path in folder.glob("*.py")]
    rules += [Path(module.__file__) for module in (dni.lr_schedule, dni.optimizers)]
    rules += [TRANSPORTS / "local.py", *TRANSPORTS.glob("*/transport.py")]
    parts = [Path(dni.loss_function.__file__), *(path for part in PARTS_OF_DNI for path in part.rglob("*.py"))]
    assert broken == raised_in(path for path in rules if path.name not in elsewhere) | checks_of(parts)
