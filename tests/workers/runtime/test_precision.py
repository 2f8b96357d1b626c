"""precision=bf16|fp16: half the bytes between stages, and nearly the same loss; compile=true: the same run."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.models.recurrent import LSTM
from dni.recurrent import Chain
from dni.stages import autocast
from dni.stages.autocast import AutocastChain
from tests.support.runs import assert_close, parameters_of, tiny
from workers.build.data import resolve
from workers.cli.evaluate import evaluate, load_parts
from workers.comm.frame import Frame
from workers.comm.roles import GRADIENT, VALUE, role_of
from workers.comm.transports.local import LocalEnd
from workers.config.convert import fingerprint
from workers.launch.launcher import launch
from workers.runtime.assembly import contents_of

METHODS: dict[str, dict[str, Any]] = {
    "backprop": {"method": "backprop"},
    "synthetic": {"method": "synthetic", "lag": 1},
    "local": {"method": "local"},
    "delayed": {"method": "delayed", "lag": 1},
}
LEARNS: dict[str, Any] = {"steps": 150, "optimizer": {"learning_rate": 0.01}, "evaluate": {"every": None, "windows": 8}}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The bytes of all values and gradients that stages send, by role."""
    found: Counter[str] = Counter()
    send = LocalEnd.send

    def counted(self: LocalEnd, frame: Frame) -> None:
        for name, tensor in frame.tensors.items():
            found[role_of(name)] += tensor.nbytes
        send(self, frame)

    monkeypatch.setattr(LocalEnd, "send", counted)
    return found


def test_stages_send_half_the_bytes(sent: Counter[str], tmp_path: Path) -> None:
    bytes_sent = {}
    for precision in ("fp32", "bf16"):
        sent.clear()
        launch(tiny(stages=3, depth={"method": "backprop"}, precision=precision), tmp_path / precision)
        bytes_sent[precision] = {role: sent[role] for role in (VALUE, GRADIENT)}
    for role in (VALUE, GRADIENT):
        assert bytes_sent["bf16"][role] * 2 == bytes_sent["fp32"][role] > 0


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_the_loss_in_16_bits_is_that_in_32_bits_within_half_a_percent(method: str, tmp_path: Path) -> None:
    bits = {
        precision: launch(tiny(depth=METHODS[method], precision=precision, **LEARNS), tmp_path / precision).summary
        for precision in ("fp32", "bf16")
    }
    found, expected = (bits[precision]["valid"]["bits_per_label"] for precision in ("bf16", "fp32"))
    assert abs(found - expected) < 0.005 * expected


def test_parameters_and_states_stay_in_32_bits(tmp_path: Path) -> None:
    launch(tiny(depth=METHODS["synthetic"], precision="bf16"), tmp_path)
    assert {tensor.dtype for tensor in parameters_of(tmp_path, 2).values()} == {torch.float32}


@pytest.mark.parametrize(("has_lstm", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_an_lstm_computes_in_32_bits_where_the_processor_has_none_in_16(
    has_lstm: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autocast, "_has_lstm", lambda dtype: has_lstm)
    layer = LSTM(3, 4)
    computed: list[torch.dtype] = []

    def run(x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        computed.append((x @ x.transpose(1, 2)).dtype)  # that of matrix products here
        return x.new_zeros(2, 5, 4), state

    monkeypatch.setattr(layer.rnn, "forward", run)
    chain = AutocastChain(Chain(OrderedDict(lstm=layer)), torch.bfloat16, last=False)
    output, state = chain(torch.zeros(2, 5, 3), layer.initial_state(2))
    assert computed == [expected]
    assert output.dtype == torch.bfloat16
    assert all(each.dtype == torch.float32 for each in state)


def test_a_resumed_run_in_16_bits_is_an_uninterrupted_one_but_for_rounding(tmp_path: Path) -> None:
    settings = {"depth": METHODS["synthetic"], "precision": "bf16", "checkpoint": {"every": 4, "keep": 9}}
    launch(tiny(**settings), tmp_path / "whole")
    launch(tiny(**settings, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_close(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2), within=1e-4)


@pytest.mark.long
def test_evaluation_has_the_precision_of_the_run(tmp_path: Path) -> None:
    settings = {"depth": METHODS["backprop"], "precision": "bf16", "evaluate": {"every": None, "windows": None}}
    trained = launch(tiny(**settings), tmp_path).summary["valid"]["bits_per_label"]
    assert evaluate(tmp_path, "valid")["bits_per_label"] == pytest.approx(trained, rel=1e-3)
    (whole,) = load_parts(resolve(tiny(**settings))[0], tmp_path, 10)
    assert isinstance(whole, AutocastChain)


def test_stages_must_agree_on_the_precision() -> None:
    config, _ = resolve(tiny(precision="bf16"))
    assert contents_of(config, 1).value[""].dtype is torch.bfloat16
    assert fingerprint(config) != fingerprint(resolve(tiny())[0])


def test_16_bits_that_the_device_lacks_are_refused_in_one_line(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"precision": "fp16", "devices": ["cpu"]}
    with pytest.raises(ConfigError, match=r"^precision=fp16 needs a GPU, and stage 0 is on cpu: use precision=bf16"):
        launch(tiny(**settings), tmp_path)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's compiler
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["synthetic", "delayed"])
def test_compiled_stages_train_alike(method: str, tmp_path: Path) -> None:
    """Only sums may have another order."""
    for compiled in (False, True):
        model = {"kind": "mlp", "units": 8, "layers": 2}
        slow = {"kind": "local", "timeout_s": 200}  # to compile takes long
        launch(tiny(depth=METHODS[method], compile=compiled, model=model, transport=slow), tmp_path / str(compiled))
    assert_close(parameters_of(tmp_path / "False", 2), parameters_of(tmp_path / "True", 2), within=1e-5)
