"""One stage on each of four hosts, which are network namespaces of this machine: `make test-hosts`, as root.

Every launch method must end with the parameters of the same experiment in one process, bit for bit. A new launch
method, transport or training method is one more line in CASES.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from benchmarks.network import namespaces
from benchmarks.network.hosts import Hosts
from tests.support.certificates import authority, certificate
from tests.support.commands import LOCAL, SMALL, Command, Finished, children, settings, summary_of
from tests.support.runs import assert_same, parameters_of
from workers.launch.launcher import launch
from workers.storage import checkpoint

STAGES = 4
RUN = (*SMALL[1:], "stages=4", "model.layers=3", "steps=6", "log_every=2", "evaluate.every=3")
#: Every host has its own certificate for its name and address.
TLS = (
    "transport.tls.cert=tls/{host}/cert.pem", "transport.tls.key=tls/{host}/key.pem", "transport.tls.ca=tls/ca.pem",
)  # fmt: skip

#: A lost host ends the run within seconds.
BRIEF = ("transport.timeout_s=5", "transport.keepalive_s=2", "transport.reconnect_s=0")

#: The message of a stage that has lost another.
NAMED = ("dni-train: WorkerLost: stage ", "dni-train: PeerTimeout: stage ")

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.timeout(180),
    pytest.mark.skipif(namespaces.why_not(tun=False) is not None, reason=str(namespaces.why_not(tun=False))),
]


@dataclass(frozen=True)
class Launch:
    """How a stage starts on its host and finds the others; `{rank}`, `{host}` and `{address}` are filled in."""

    variables: dict[str, str]
    overrides: tuple[str, ...] = ("run_id=night",)
    program: tuple[str, ...] = (sys.executable, "-m", "workers")


LIST = "transport.peers=[host0:7000,host1:7000,host2:7000,host3:7000]"
RANKS = {"RANK": "{rank}", "WORLD_SIZE": "4"}
PEERS = Launch(RANKS, ("launch=external", "run_id=night", LIST))
VARIABLES = Launch({**RANKS, "MASTER_ADDR": "host0", "MASTER_PORT": "29500"})
ADDRESSES = Launch(
    {**RANKS, "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500"}, ("run_id=night", "transport.bind={address}:0")
)
TORCHRUN = Launch(
    {},
    (),
    (sys.executable, "-m", "torch.distributed.run", "--nnodes=4", "--nproc-per-node=1", "--rdzv-backend=c10d",
     "--rdzv-endpoint=host0:29500", "--rdzv-id=night", "-m", "workers"),
)  # fmt: skip
SRUN = Launch({
    "SLURM_PROCID": "{rank}", "SLURM_NTASKS": "4", "SLURM_NNODES": "4", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "77",
    "SLURM_JOB_NODELIST": "host[0-3]",
})  # fmt: skip
POD = Launch(
    {"DNI_STAGES": "4", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "dni-{rank}"}, ("run_id=night", LIST)
)

CASES = {
    "gRPC, a list of peers": (PEERS, "depth=backprop", *TLS),
    "gRPC, torchrun": (TORCHRUN, "depth.lag=1", *TLS),
    "gRPC, variables": (VARIABLES, "depth.lag=1", *TLS),
    "gRPC, what srun sets": (SRUN, "depth=backprop", *TLS),
    "gRPC, what a pod has": (POD, "depth=backprop", *TLS),
    "gRPC, addresses, plaintext": (ADDRESSES, "depth=backprop", "transport.insecure=true"),
    "torch.distributed, torchrun": (TORCHRUN, "depth.lag=1", "transport=torch_distributed", "transport.insecure=true"),
}


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts(STAGES, delay_ms=None) as made:
        yield made


@pytest.fixture
def folder(hosts: Hosts, tmp_path: Path) -> Path:
    """The folder of all commands, with certificates of one authority for every host."""
    authority(tmp_path / "tls")
    for k in range(STAGES):
        (tmp_path / "tls" / hosts.name(k)).mkdir()
        certificate(tmp_path / "tls" / hosts.name(k), tmp_path / "tls", f"DNS:{hosts.name(k)},IP:{hosts.address(k)}")
    return tmp_path


def start(hosts: Hosts, folder: Path, host: int, way: Launch, *overrides: str) -> Command:
    """Return the command of a stage on its host, not yet started."""

    def filled(text: str) -> str:
        known = {"{rank}": str(host), "{host}": hosts.name(host), "{address}": hosts.address(host)}
        for name, value in known.items():
            text = text.replace(name, value)
        return text

    given = tuple(filled(text) for text in (*RUN, *way.overrides, *overrides))
    variables = {name: filled(text) for name, text in way.variables.items()}
    return Command(folder, given, tuple(hosts.command(host, list(way.program))), variables)


def run_on_all(hosts: Hosts, folder: Path, way: Launch, *overrides: str) -> list[Finished]:
    with ExitStack() as stack:
        started = [stack.enter_context(start(hosts, folder, k, way, *overrides)) for k in range(STAGES)]
        return [command.finish(within=120) for command in started]


def in_one_process(target: Path, *overrides: str) -> Path:
    """Run the same experiment in one process, without the settings of links."""
    launch(settings(*RUN, *(text for text in overrides if not text.startswith("transport")), *LOCAL), target)
    return target


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_four_hosts_equals_one_in_one_process_bit_for_bit(case: str, hosts: Hosts, folder: Path) -> None:
    way, *overrides = CASES[case]
    done = run_on_all(hosts, folder, way, *overrides)
    assert [one.code for one in done] == [0] * STAGES, [one.err for one in done]
    found = folder / "outputs" / "night"
    one = in_one_process(folder / "one", *overrides)
    assert_same(parameters_of(found, STAGES), parameters_of(one, STAGES))
    assert summary_of(found)["valid"] == summary_of(one)["valid"]


@pytest.mark.parametrize("way", [TORCHRUN, VARIABLES], ids=["torchrun", "variables"])
def test_a_pipeline_over_four_hosts_equals_backprop_in_one_process(way: Launch, hosts: Hosts, folder: Path) -> None:
    done = run_on_all(hosts, folder, way, "depth=1f1b", "transport.insecure=true")
    assert [one.code for one in done] == [0] * STAGES, [one.err for one in done]
    found = parameters_of(folder / "outputs" / "night", STAGES)
    expected = parameters_of(in_one_process(folder / "one", "depth=backprop"), STAGES)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_a_peer_without_a_certificate_is_refused_and_the_run_continues(hosts: Hosts, folder: Path) -> None:
    """Three stages wait for the first one; a peer without a certificate of the authority is refused."""
    certificates = authority(folder / "theirs", "DNS:host3,IP:10.77.0.4")
    forged = (
        f"transport.tls.cert={certificates['cert']}",
        f"transport.tls.key={certificates['key']}",
        f"transport.tls.ca={certificates['ca']}",
    )
    with ExitStack() as stack:
        later = [stack.enter_context(start(hosts, folder, k, PEERS, "depth=backprop", *TLS)) for k in (1, 2, 3)]
        for number, stranger in enumerate((("transport.insecure=true",), forged)):
            where = (f"hydra.run.dir=elsewhere/{number}", "transport.timeout_s=3")
            with start(hosts, folder, 0, PEERS, "depth=backprop", *stranger, *where) as command:
                refused = command.finish()
            assert refused.code == 1
            assert refused.err[-1].startswith("dni-train: HandshakeRefused: stage 0: no link to stage 1"), refused.err
        first = stack.enter_context(start(hosts, folder, 0, PEERS, "depth=backprop", *TLS))
        assert [command.finish().code for command in (first, *later)] == [0] * STAGES
    one = in_one_process(folder / "one", "depth=backprop")
    assert_same(parameters_of(folder / "outputs" / "night", STAGES), parameters_of(one, STAGES))


@pytest.mark.parametrize("fault", ["killed", "unplugged"])
def test_a_lost_host_ends_the_run_everywhere_and_it_resumes(fault: str, hosts: Hosts, folder: Path) -> None:
    run = ("depth.lag=1", "steps=100000", "checkpoint.every=5", "evaluate.every=null", *BRIEF, *TLS)
    night = folder / "outputs" / "night"
    with ExitStack() as stack:
        started = [stack.enter_context(start(hosts, folder, k, PEERS, *run)) for k in range(STAGES)]
        started[0].until(lambda: bool(checkpoint.complete_steps(night)), "a checkpoint")
        if fault == "killed":
            started[2].process.kill()
        else:
            hosts.unplug(2)
        done = [command.finish() for command in started]
    lost = [-signal.SIGKILL if fault == "killed" else 1]
    assert [one.code for one in done] == [1, 1, *lost, 1], [one.err for one in done]
    for k, one in enumerate(done):
        if k != 2 or fault == "unplugged":
            assert one.err[-1].startswith(NAMED), one.err
            assert one.err[-1].endswith(f"resume with: dni-train resume={night}")
    saved = checkpoint.complete_steps(night)[-1]
    again = replace(PEERS, overrides=("launch=external", "run_id=day", LIST))
    if fault == "unplugged":
        hosts.plug_in(2)
    done = run_on_all(hosts, folder, again, *run, f"steps={saved + 3}", f"resume={night}")
    assert [one.code for one in done] == [0] * STAGES, [one.err for one in done]
    one = in_one_process(folder / "one", *run, f"steps={saved + 3}")
    assert_same(parameters_of(folder / "outputs" / "day", STAGES), parameters_of(one, STAGES))


def test_a_lost_stage_under_torchrun_ends_the_run_everywhere(hosts: Hosts, folder: Path) -> None:
    run = ("steps=100000", "checkpoint.every=5", "evaluate.every=null", *BRIEF, *TLS)
    with ExitStack() as stack:
        started = [stack.enter_context(start(hosts, folder, k, TORCHRUN, *run)) for k in range(STAGES)]
        started[0].until(lambda: bool(checkpoint.complete_steps(folder / "outputs" / "night")), "a checkpoint", 60)
        (stage,) = children(started[2].process.pid)
        os.kill(stage, signal.SIGKILL)
        done = [command.finish() for command in started]
    assert [one.code for one in done] == [1] * STAGES
    lines_of_stages = [[line for line in one.err if line.startswith("dni-train: ")] for one in done]
    assert [len(lines) for lines in lines_of_stages] == [1, 1, 0, 1]
    assert all(lines[0].startswith(NAMED) for lines in lines_of_stages if lines), lines_of_stages
