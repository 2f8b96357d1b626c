"""The page: its charts, what they are drawn against, and the commands that repeat the runs."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html import unescape
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.run_folders import write_run
from tests.support.runs import tiny
from workers.config.compose import compose_settings
from workers.config.convert import to_plain
from workers.reporting import page as page_module
from workers.reporting.aggregate import group_runs
from workers.reporting.charts import charts, library
from workers.reporting.command import command_of
from workers.reporting.curves import points
from workers.reporting.page import RunText, Section, page
from workers.tracking.run import Run, find_runs


def test_a_curve_has_samples_and_the_bytes_of_all_stages() -> None:
    """Two stages: at steps 10 and 20 they have sent 1 + 2 and 3 + 4 MB; in between the share of the steps."""
    sent = {(10, 0): 1.0, (10, 1): 2.0, (20, 0): 3.0, (20, 1): 4.0}
    records = [
        {"kind": "train", "stage": k, "step": s, "wall_s": 1.0, "sent_bytes": 1e6 * mb, "loss": 1.0 if k else None}
        for (s, k), mb in sent.items()
    ]
    records.append({"kind": "valid", "stage": 1, "step": 15, "wall_s": 1.0, "bits_per_label": 2.0})
    run = Run(Path("x"), None, records, {"data": {"batch": 4}})
    assert points(run, "train", "loss")[["step", "samples", "sent_mb"]].to_numpy().tolist() == [
        [10, 40, 3], [20, 80, 7],
    ]  # fmt: skip
    assert points(run, "valid", "bits_per_label")["sent_mb"].tolist() == [5.0]


def test_charts_switch_between_axes_and_keep_their_points(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", config="data: {batch: 4}")
    losses, training, busy = charts(group_runs(find_runs([run])))
    (trace,) = losses["data"]
    assert (trace["x"], trace["y"]) == ([10, 20], [12, 2])
    axes = {button["label"]: button["args"][0]["x"] for button in losses["layout"]["updatemenus"][0]["buttons"]}
    assert axes == {"step": [[10, 20]], "samples": [[40, 80]], "seconds": [[2, 4]]}  # no bytes were recorded
    assert len(training["data"][0]["x"]) == 20
    assert busy["data"][0]["y"] == [40, 60]


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for plotly's library, which need not be installed."""
    monkeypatch.setattr(page_module, "library", lambda: "/* the library */")


@pytest.mark.skipif(find_spec("plotly") is None, reason="plotly is not installed")
def test_the_library_is_that_of_plotly() -> None:
    text = library()
    assert text is not None
    assert "plotly.js v" in text[:200]
    assert "</script" not in text


def test_text_of_a_run_cannot_become_part_of_the_page() -> None:
    evil = "</script><script>alert(1)</script>"
    chart = {"data": [{"name": evil, "x": [1], "y": [2]}], "layout": {}}
    text = page([Section(evil, [["a"], [evil]], [evil], [], [chart], [RunText(evil, evil, evil)])], [evil])
    assert evil not in text
    found = re.search(r'<script type="application/json">(.*?)</script>', text)
    assert found is not None
    assert json.loads(found[1])["data"][0]["name"] == evil
    assert unescape(text).count("alert(1)") == 8


def test_without_the_library_the_page_has_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    section = Section("t", [["a"], ["b"]], [], [("caption", b"png")], [{"data": [1], "layout": {}}])
    assert '<img alt="caption"' not in page([section], [])
    monkeypatch.setattr(page_module, "library", lambda: None)
    plain = page([section], [])
    assert '<img alt="caption" src="data:image/png;base64,cG5n">' in plain
    assert "<script" not in plain


@pytest.mark.long
def test_a_command_repeats_a_run() -> None:
    """With other classes, a list, text that a shell and Hydra would read, and a number."""
    wanted = tiny(
        seed=3, depth={"method": "delayed", "lag": 2}, time={"method": "synthetic"}, resume="it's $5, {x}",
        model={"split_points": ["lstm1"]}, optimizer={"kind": "sgd", "learning_rate": 0.25},
        data={"path": "/it's $5, {x}/a text"},
    )  # fmt: skip
    command = command_of(to_plain(wanted))
    assert command is not None
    program, *words = shlex.split(command)
    assert program == "dni-train"
    assert {"depth=delayed", "time=synthetic", "optimizer=sgd", "transport=local"} <= {*words}
    assert "seed=3" in words
    assert to_plain(compose_settings(words)) == to_plain(replace(wanted, resume=None))


@pytest.mark.long
def test_a_command_names_the_experiment() -> None:
    smoke = compose_settings(["experiment=smoke", "optimizer.clip=null"])
    assert command_of(to_plain(smoke)) == "dni-train experiment=smoke optimizer.clip=null"


def test_an_old_record_has_no_command() -> None:
    assert command_of({"steps": 3, "model": {"kind": "nothing", "size": 4}}) is None
