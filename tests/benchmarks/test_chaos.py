"""Faults in real runs: what the proxy does to bytes, how faults are planned, and how a run is judged."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.chaos.disturb import Wound
from benchmarks.chaos.faults import KINDS, Fault, damage, plan
from benchmarks.chaos.judge import kills, left_out, missed_steps, trained, twice
from benchmarks.chaos.pages import bars_of, bars_table, faults_table, runs_table, timeline
from benchmarks.chaos.proxy import Proxy, Switchboard, Way, address_of
from benchmarks.chaos.training import Training
from benchmarks.chaos.transport import Proxied

ROOT = Path(__file__).parents[2]


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line = self._server.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._echo, args=(line,), daemon=True).start()

    def _echo(self, line: socket.socket) -> None:
        with line:
            try:
                while data := line.recv(4096):
                    line.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with closing(Echo()) as echo, closing(Proxy()) as proxy:
        proxy.target = address_of(echo.address)
        yield proxy


def ask(line: socket.socket, data: bytes, count: int) -> bytes:
    line.sendall(data)
    found = b""
    while len(found) < count and (more := line.recv(4096)):
        found += more
    return found


def is_cut(line: socket.socket) -> bool:
    try:
        for _ in range(100):
            line.sendall(b"more")
            if not line.recv(4096):
                return True
    except ConnectionError:
        return True
    return False


def test_a_proxy_forwards_and_changes_the_next_bytes_once(proxy: Proxy) -> None:
    with socket.create_connection(address_of(proxy.address), timeout=10) as line:
        assert ask(line, b"hello", 5) == b"hello"
        done = proxy.change(Way.DOWN, lambda data: (data + data, True))
        assert ask(line, b"twice", 10) == b"twicetwice"
        assert done.is_set()
        proxy.change(Way.UP, lambda data: (data[1:], True))
        assert ask(line, b"abc", 2) == b"bc"
        assert ask(line, b"again", 5) == b"again"
    assert len(proxy.opened) == 1


@pytest.mark.parametrize("how", ["cut", "torn"])
def test_a_proxy_resets_a_connection_and_makes_the_next_one(how: str, proxy: Proxy) -> None:
    with socket.create_connection(address_of(proxy.address), timeout=10) as line:
        assert ask(line, b"hello", 5) == b"hello"
        if how == "cut":
            proxy.cut()
        else:
            proxy.change(Way.DOWN, lambda data: (data[:1], False))
        assert is_cut(line)
    with socket.create_connection(address_of(proxy.address), timeout=10) as line:
        assert ask(line, b"hello", 5) == b"hello"


def test_a_stalled_link_delivers_late(proxy: Proxy) -> None:
    with socket.create_connection(address_of(proxy.address), timeout=10) as line:
        assert ask(line, b"hello", 5) == b"hello"
        proxy.stall(0.3)
        line.settimeout(0.1)
        with pytest.raises(TimeoutError):
            ask(line, b"late", 4)
        line.settimeout(10)
        assert ask(line, b"", 4) == b"late"


def test_the_switchboard_leads_a_stage_to_the_proxy_of_the_next_one() -> None:
    with closing(Switchboard(3)) as board:
        transport = Proxied(switchboard=board.address)
        assert transport._through("127.0.0.1:7007", 2) == board.proxies[2].address
        assert board.proxies[2].target == ("127.0.0.1", 7007)
        assert board.proxies[1].target is None


def test_a_plan_is_a_function_of_its_seed() -> None:
    first, again, other = (plan(random.Random(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert {kind: sum(fault.kind == kind for fault in first) for kind in KINDS} == KINDS
    assert 3 * len(first) >= 200
    assert all(fault.stage in (1, 2, 3) for fault in first if not fault.kind.startswith("process"))
    assert len(plan(random.Random(1), 0.5)) < len(first)


def test_the_newest_checkpoint_is_torn_or_rots(tmp_path: Path) -> None:
    files = [tmp_path / f"checkpoints/step-000000{step}/stage-1.safetensors" for step in (10, 20)]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(90))
    damage(tmp_path, 1, "kill")
    assert [file.read_bytes() for file in files] == [bytes(90)] * 2
    damage(tmp_path, 1, "kill, newest checkpoint rotten")
    assert (files[0].read_bytes(), sum(files[1].read_bytes())) == (bytes(90), 0x10)
    damage(tmp_path, 1, "kill, newest checkpoint torn")
    assert (files[0].read_bytes(), len(files[1].read_bytes())) == (bytes(90), 45)


def test_steps_are_counted() -> None:
    records = [{"kind": "train", "stage": stage, "step": step} for stage in range(4) for step in range(1, 31)]
    steps = trained([*records, {"kind": "train", "stage": 1, "step": 7}, {"kind": "end", "stage": 1, "step": 30}])
    assert (twice(steps), left_out(steps, [])) == (1, 0)
    steps = {stage: [n for n in range(1, 31) if stage < 2 or not 12 <= n < 20] for stage in range(4)}
    assert left_out(steps, []) == 16  # of stages 2 and 3
    assert left_out(steps, [(2, 14, 20)]) == 0  # 12 to 14 had been on their way
    assert left_out(steps, [(3, 14, 20)]) == 8  # nothing excuses stage 2
    assert left_out({**steps, 0: steps[2]}, [(2, 14, 20)]) == 8  # a stage before the lost one leaves nothing out


def ended_run(tmp_path: Path) -> tuple[Training, list[Wound]]:
    """A run whose stage 2 is killed at 10 s, after step 100, and back at 14 s; ten steps a second."""
    run = object.__new__(Training)
    run.folder = tmp_path
    run.seen = {stage: [(step / 10, step) for step in range(1, 201)] for stage in (0, 1)}
    run.seen |= {stage: [(at, n) for at, n in run.seen[0] if not 100 < n < 140] for stage in (2, 3)}
    run.records = [{"kind": "rejoined", "stage": 2, "step": 140, "at": 14.0, "noticed_s": 0.1, "away_s": 3.9}]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/stage-2.log").write_text("[x][WARNING][y] stage 2, step 140: 49 steps before it did not come\n")
    wound = Wound(Fault("kill", 2, 0.0, 60), step=100, start=10.0, end=10.0, back=14.2)
    return run, [Wound(Fault("stranger", 1, 0.0, 3), step=20, start=2.0, end=2.0, back=2.1), wound]


def test_the_cost_of_a_kill(tmp_path: Path) -> None:
    run, wounds = ended_run(tmp_path)
    (cost,) = kills(run, wounds, 0.0)
    assert (cost["before"], cost["first"], cost["lost_updates"]) == (100, 140, 10)  # its checkpoint was of step 90
    assert cost["rates"] == pytest.approx([1.0, 1.0], abs=0.03)
    assert missed_steps(tmp_path / "logs/stage-2.log", 139) == 0


def test_a_stage_may_be_back_at_the_last_checkpoint(tmp_path: Path) -> None:
    """It has seen step 200, but not trained it: 101 to 200 are missing, and 91 to 100 are lost."""
    run, wounds = ended_run(tmp_path)
    run.seen[2] = run.seen[2][:100]
    run.records[0]["step"] = 200
    (tmp_path / "logs/stage-2.log").write_text("stage 2, step 200: 110 steps before it did not come\n")
    (cost,) = kills(run, wounds, 0.0)
    assert (cost["before"], cost["first"], cost["lost_updates"]) == (100, 201, 10)


def test_tables_bars_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, wounds = ended_run(tmp_path)
    row = {"steps": 200, "wall_s": 20.0, "hangs": 0, "orphans": 0, "twice": 0, "left_out": 0}
    faults = [wound.as_row() for wound in wounds]
    rows = {
        "disturbed, seed 0": {
            **row, "bits": 2.5, "trained": [200, 200, 161, 161], "kills": kills(run, wounds, 0.0), "faults": faults,
        },
        "undisturbed, seed 0": {**row, "bits": 2.4}, "undisturbed, seed 1": {**row, "bits": 2.44},
    }  # fmt: skip
    bars = {line["bar"]: line for line in bars_of(rows)}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [*bars.values()]
    assert (bars["hangs"]["holds"], bars["faults injected"]["holds"]) == (True, False)
    assert bars["seconds until a killed stage is back, longest"]["value"] == 3.9
    assert bars["bits per character more than undisturbed, mean"]["value"] == 0.08
    assert bars["bits per character more than undisturbed, mean"]["holds"] is False  # 2 deviations are 0.0566
    results = {
        "rows": rows, "bars": [*bars.values()], "seed": 0, "load": 1.5,
        "environment": {"machine": "m", "python": "3", "torch": "2", "command": "c"},
    }  # fmt: skip
    assert "| kill | 1 | 1 | 0 | 4.2 | 4.2 |" in faults_table(results)
    assert "| hangs | 0 | 0 | held |" in bars_table(results)
    assert "| disturbed, seed 0 | 2.500 | 200 / 200 / 161 / 161 | 20 |" in runs_table(results)
    timeline(run, wounds, 0.0, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_chaos(tmp_path: Path) -> None:
    """Nothing hangs and nothing is left behind; a machine that is busy has less time for faults."""
    environment = {**os.environ, "QUICK": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.chaos"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "outputs/bench-chaos/quick/chaos.json").read_text())
    bars = {line["bar"]: line for line in results["bars"]}
    assert json.loads(ended.stdout.splitlines()[-1]) == results["bars"][-1]
    assert bars["faults injected"]["value"] >= 1
    for name in ("hangs", "processes left behind", "steps trained twice", "steps left out by stages that had input"):
        assert bars[name]["holds"], name
    assert (tmp_path / "outputs/bench-chaos/quick/reliability.png").is_file()
