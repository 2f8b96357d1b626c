"""The typed schema of every setting. The rules between settings are in `workers.rules`."""

from __future__ import annotations

import enum
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError

DepthMethod = enum.Enum("DepthMethod", ["backprop", "synthetic", "local", "delayed"])
TimeMethod = enum.Enum("TimeMethod", ["full", "checkpointed", "truncated", "synthetic"])
PredictorKind = enum.Enum("PredictorKind", ["critic", "mlp", "linear", "conv", "oracle"])
Context = enum.Enum("Context", ["none", "window", "lookahead"])
ModelKind = enum.Enum("ModelKind", ["lstm", "gru", "mingru", "transformer", "mlp", "mlp_bn", "cnn", "resnet"])
TransportKind = enum.Enum("TransportKind", ["local", "grpc"])
LaunchMode = enum.Enum("LaunchMode", ["auto", "threads", "processes"])
DataKind = enum.Enum("DataKind", ["text", "copy", "repeat_copy", "seqmnist", "mnist", "cifar10"])
OptimizerKind = enum.Enum("OptimizerKind", ["adam", "sgd"])


#: Steps of the shortest sequence that is copied, where a curriculum begins.
SHORTEST = 5


@dataclass
class ModelConfig:
    kind: ModelKind = ModelKind.lstm
    units: int = 128
    layers: int = 3  # resnet: blocks of each of its three widths
    heads: int = 4  # transformer: of attention; divide the units
    memory: int = 32  # transformer: inputs of earlier windows that a layer remembers and attends to
    cut_at: list[str] = field(default_factory=list)  # first layer of every stage but the first; empty: by balance
    symbols: int | None = None  # V; filled in from the data
    input_symbols: int | None = None  # rows of the embedding; filled in from the data
    image: list[int] | None = None  # channels, height, width; filled in from the data


@dataclass
class DataConfig:
    kind: DataKind = DataKind.text
    path: str | None = None  # text: file, folder, or Penn Treebank folder, null: the embedded text; images' folder
    length: int | None = None  # copy tasks: steps of every sequence; null: the curriculum
    side: int = 28  # seqmnist: pixels a side, 28, 14 or 7
    streaming: bool = False  # labels after a window are not known yet: no lookahead
    label: str | None = None  # images: what to call them; null: what a label.txt beside them says, else their kind
    sha256: str | None = None  # of the text; filled in from it
    batch: int = 32  # B lanes
    window: int = 32  # T steps; time=checkpointed: of a chunk that is computed again
    sequence: int | None = 256  # steps between resets, a multiple of T; null: lanes run on to the end of the text


@dataclass
class DepthConfig:
    method: DepthMethod = DepthMethod.synthetic
    window: int = 4  # W, most unfinished frames on an edge; delayed: on all edges together, and steps a stage keeps
    lag: int | None = None  # train the predictor at step t on exactly the target of step t - lag; null: on what came
    # (delayed: go back at step t exactly through step t - lag per edge; local: a curriculum hears of losses that late)
    stash: bool = True  # delayed: go back with the weights of the forward pass: W copies, or two with accumulate=W (as
    # in PipeDream-2BW); false: with today's, a window is run again when its gradient comes


@dataclass
class TimeConfig:
    method: TimeMethod = TimeMethod.truncated


@dataclass
class CutPredictorConfig:
    kind: PredictorKind = PredictorKind.critic
    hidden: int = 0  # units of the hidden layer (mlp, critic, the head of depth=local), channels (conv)
    match: float = 1.0  # critic: weight of the squared distance to the target gradient
    learning_rate: float = 3e-3
    fits: int = 1  # predictor steps per target
    warmup: int = 0  # predictor updates before the stage moves
    scale: float = 1.0  # factor on the synthetic gradient that the network receives
    clip: float | None = None  # largest norm of the predictor's own gradient; null: not clipped


@dataclass
class DepthPredictorConfig(CutPredictorConfig):  # depth=local has a classifier instead, of `hidden` and `learning_rate`
    labels: bool = True  # labels as context of a regressor; a critic always uses them
    cells: int = 4  # critic of feature maps: it sees the means in a grid of so many cells a side


@dataclass
class TimePredictorConfig(CutPredictorConfig):
    context: Context = Context.lookahead  # beside the state: nothing, the last `history` inputs, the next labels
    lookahead: int = (
        1  # L, labels after the window; a critic with context=window guesses them, and learns when they have come
    )
    history: int = 32  # H, input symbols up to the end of the window that context=window sees
    horizon: int = 1  # M, windows that are run again together for M targets of the time cut; 1: none is
    lambda_: float = 0.0  # share of a horizon's later targets, against the prediction; named so as lambda is Python's
    auxiliary: float = 0.0  # weight of the auxiliary task, to foretell the prediction at the next window's end


@dataclass
class PredictorConfig:
    depth: DepthPredictorConfig = field(default_factory=DepthPredictorConfig)
    time: TimePredictorConfig = field(default_factory=TimePredictorConfig)


@dataclass
class OptimizerConfig:
    kind: OptimizerKind = OptimizerKind.adam
    learning_rate: float = 4e-3
    momentum: float = 0.0  # sgd only
    clip: float | None = 1.0  # largest gradient norm per stage
    accumulate: int = 1  # windows whose gradients are summed for one optimizer step


@dataclass
class TransportConfig:
    kind: TransportKind = TransportKind.grpc
    bind: str = "127.0.0.1:0"  # where a stage listens; port 0: any free port
    delay_ms: float = 0.0  # emulated one-way link delay
    timeout_s: float = 60.0  # a neighbour silent for longer than this is lost
    checksum: bool = False  # a checksum over tensors too, not only over headers
    max_frame_mb: int = 256


@dataclass
class LaunchConfig:
    mode: LaunchMode = LaunchMode.auto
    torch_threads: int | None = None  # per stage; null: cores / stages


@dataclass
class EvaluateConfig:
    every: int | None = 250  # steps between validation passes; null: only at the end
    windows: int | None = None  # validation windows per pass; null: all
    probe: int | None = None  # steps between probes: synthetic against exact gradients on one sequence; null: none
    probe_windows: int = 8  # most windows of that sequence, all of whose activations are kept
    patience: int | None = None  # stop after so many passes that were no better than the best; each is then saved


@dataclass
class CheckpointConfig:
    every: int | None = 500  # steps; null: only at the end
    keep: int = 2  # older complete checkpoints are removed


@dataclass
class Config:
    experiment: str = "default"
    seed: int = 0
    steps: int = 1000
    lane_steps: int | None = None  # stop once every lane has run through this many time steps, whatever T
    stages: int = 4
    devices: list[str] = field(default_factory=lambda: ["auto"])  # one for all stages, or one each: auto, cpu, cuda:N
    log_every: int = 10
    resume: str | None = None  # run folder to go on from
    resume_step: int | None = None  # which of its checkpoints; null: the newest complete one
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    time: TimeConfig = field(default_factory=TimeConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    transport: TransportConfig = field(default_factory=TransportConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    @property
    def window(self) -> int:
        """T in force: with `time=full` or `checkpointed` one whole sequence, of a curriculum the first."""
        data = self.data
        if not self.whole_sequences:
            return data.window
        if data.kind is DataKind.text:
            return data.sequence or data.window
        return data.side**2 if data.kind is DataKind.seqmnist else data.length or SHORTEST

    @property
    def planned_steps(self) -> int:
        """At most so many steps will be taken, for whoever shows progress."""
        return self.steps if self.lane_steps is None else min(self.steps, -(-self.lane_steps // self.window))

    @property
    def whole_sequences(self) -> bool:
        """Whether gradients flow back through whole sequences."""
        return self.time.method in (TimeMethod.full, TimeMethod.checkpointed)

    @property
    def chunk(self) -> int | None:
        """Steps of a chunk whose activations are computed again rather than kept; None: all are kept."""
        return self.data.window if self.time.method is TimeMethod.checkpointed else None

    @property
    def lookahead(self) -> int:
        """L in force: labels beyond the window travel only where a time cut uses them."""
        return self.predictor.time.lookahead if self._context is Context.lookahead else 0

    @property
    def history(self) -> int:
        """H in force: input symbols travel only where a time cut uses them."""
        return self.predictor.time.history if self._context is Context.window else 0

    @property
    def _context(self) -> Context:
        cut = self.predictor.time
        used = self.time.method is TimeMethod.synthetic and cut.kind is not PredictorKind.oracle
        return cut.context if used else Context.none

    @property
    def threads(self) -> bool:
        """Whether the stages are threads of one process."""
        if self.launch.mode is LaunchMode.auto:
            return self.transport.kind is TransportKind.local
        return self.launch.mode is LaunchMode.threads

    @property
    def torch_threads(self) -> int:
        """Torch threads per stage: an explicit number, or an equal share of this machine's cores."""
        return self.launch.torch_threads or max(1, (os.cpu_count() or 1) // self.stages)

    def fingerprint(self) -> str:
        """A digest of what the stages of a run must agree on: seed, model, data, method, predictors, optimizer."""
        parts = ("seed", "stages", "model", "data", "depth", "time", "predictor", "optimizer")
        agreed = {key: value for key, value in to_plain(self).items() if key in parts}
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()[:16]


def register() -> None:
    """Make the schema known to Hydra under the name that `conf/config.yaml` starts from."""
    ConfigStore.instance().store(name="schema", node=Config)


def from_any(settings: Any) -> Config:
    """A typed Config from an OmegaConf node, a mapping or YAML path. Raises ConfigError on unknown keys or types."""
    try:
        loaded = OmegaConf.load(settings) if isinstance(settings, str | Path) else OmegaConf.create(settings)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), loaded))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{one_line(error)} (all settings: dni-train --cfg job)") from error
    assert isinstance(config, Config)
    return config


def to_plain(config: Config) -> dict[str, Any]:
    """Nested dicts, lists, strings and numbers: the inverse of `from_any`."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config), default=lambda member: member.name))
    return plain


def one_line(error: BaseException) -> str:
    """The message without OmegaConf's trailing lines; the key it names is kept."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    first = lines[0] if lines else type(error).__name__
    return f"{keys[0]}: {first}" if keys and keys[0] not in first else first
