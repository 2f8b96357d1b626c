"""docs/launching.md is correct: its commands are accepted, and its manifest gives every pod its stage."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import settings
from tests.support.refusals import refusal_of
from workers.config.validation.check import check
from workers.launch.cluster_environment import RankInfo, settle_launch
from workers.launch.run_folder import share_folder

PAGE = (Path(__file__).parents[3] / "docs" / "launching.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Return the overrides of every command in the page's plain blocks."""
    plain = [block for kind, block in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL) if not kind]
    lines = "\n".join(plain).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    found = [re.split(r"\bdni-train\b|-m workers\b", " ".join(line), maxsplit=1)[1:] for line in words]
    return [rest[0].split() for rest in found if rest]


def test_every_command_of_the_page_is_found() -> None:
    """Count the lines of plain blocks that name the program without the regular expressions above."""
    inside, kind, count = False, "", 0
    for line in PAGE.splitlines():
        if line.startswith("```"):
            inside, kind = not inside, line.removeprefix("```") if not inside else ""
        elif inside and not kind:
            command = line.partition(" #")[0]
            count += not command.startswith("#") and ("dni-train " in f"{command} " or "-m workers" in command)
    assert len(commands()) == count > 10
    assert {"transport=torch_distributed", "stages=4"} <= {word for words in commands() for word in words}


@pytest.mark.parametrize("overrides", commands(), ids=" ".join)
def test_its_commands_are_accepted(overrides: list[str]) -> None:
    """Hydra's own options and sweeps over seeds are removed."""
    own = [text for text in overrides if text != "-m" and not text.startswith(("hydra", "seed="))]
    config = settings(*own)
    if config.transport.peers and config.launch.mode.name == "auto":  # the environment makes it external
        config = replace(config, launch=settings("launch=external").launch)
    assert refusal_of(check, replace(config, run_id=None)) is None


def manifest() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the service and the stateful set."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    service, stateful = yaml.safe_load_all(text)
    assert (service["kind"], stateful["kind"]) == ("Service", "StatefulSet")
    return service, stateful


def test_the_manifest_gives_every_pod_its_stage() -> None:
    service, stateful = manifest()
    (container,) = stateful["spec"]["template"]["spec"]["containers"]
    (args,) = container["args"]
    program, *overrides = shlex.split(args.partition(";")[0])
    config = settings(*overrides)
    check(replace(config, launch=settings("launch=external").launch))
    name, pods = stateful["metadata"]["name"], stateful["spec"]["replicas"]
    given = {one["name"]: one["value"] for one in container["env"]}
    assert (program, config.stages, container["command"]) == ("dni-train", pods, ["sh", "-c"])
    for k in range(pods):
        pod = {**given, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": f"{name}-{k}"}
        assert settle_launch(config, pod)[1] == RankInfo(k, pods, "DNI_STAGES", True)
        assert share_folder(overrides, pod)[0] == "hydra.run.dir=outputs/first"
        assert config.transport.peers[k].rpartition(":")[0] == f"{name}-{k}.{service['metadata']['name']}"


def test_the_parts_of_the_manifest_fit_each_other() -> None:
    service, stateful = manifest()
    spec, pod = stateful["spec"], stateful["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    overrides = settings(*shlex.split(container["args"][0].partition(";")[0])[1:])
    assert spec["serviceName"] == service["metadata"]["name"]
    assert spec["template"]["metadata"]["labels"] == spec["selector"]["matchLabels"] == service["spec"]["selector"]
    assert service["spec"]["publishNotReadyAddresses"] is True  # stages resolve each other before they are ready
    assert spec["podManagementPolicy"] == "Parallel"  # no stage is ready before the others have started
    assert mounted.keys() == {one["name"] for one in pod["volumes"]}
    assert mounted["runs"] == container["workingDir"]
    tls = overrides.transport.tls
    assert {str(Path(str(file)).parent) for file in (tls.cert, tls.key, tls.ca)} == {mounted["tls"]}
