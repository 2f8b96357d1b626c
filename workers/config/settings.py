"""All settings of a run, typed. The rules between settings are in `workers.config.validation.check`."""

from __future__ import annotations

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
from workers.config.schema import (
    CHUNKED,
    PIPELINES,
    SHORTEST,
    CheckpointConfig,
    Context,
    DataConfig,
    DataKind,
    DepthConfig,
    DepthMethod,
    EmulateConfig,
    EvaluateConfig,
    LaunchConfig,
    LaunchMode,
    ModelConfig,
    OptimizerConfig,
    PredictorConfig,
    PredictorKind,
    ScheduleKind,
    TimeConfig,
    TimeMethod,
    TransportConfig,
    TransportKind,
)
from workers.config.suggest import suggestion


@dataclass
class Config:
    experiment: str = "default"  # the name of the experiment in summaries and reports
    seed: int = 0  # [seed] of first weights, made-up data, dropout and random updates
    steps: int = 1000  # [steps] after which the run ends: a step trains on one window of every lane
    lane_steps: int | None = None  # [time steps] stop once every lane has run through so many, whatever T; null: never
    stages: int = 4  # [stages] into which the model is cut, one worker each
    devices: list[str] = field(default_factory=lambda: ["auto"])  # one for all stages, or one each: auto, cpu, cuda:N
    log_every: int = 10  # [steps] between two training records of a stage
    tensorboard: bool = True  # write TensorBoard events into the run folder
    run_id: str | None = None  # launch=external: the name of the folder that all stages share; null: the engine's job
    resume: str | None = None  # run folder to go on from
    resume_step: int | None = None  # [steps] which of its checkpoints; null: the newest complete one
    start_from: str | None = None  # run folder whose weights a new run begins with; all else is new
    start_step: str | None = None  # which of its checkpoints: a number of steps, best or last; null: best, else last
    model: ModelConfig = field(default_factory=ModelConfig)  # the network: its layers, their sizes, where it is cut
    data: DataConfig = field(default_factory=DataConfig)  # what is learned: B lanes of windows of T steps
    depth: DepthConfig = field(default_factory=DepthConfig)  # the cuts between stages: the method, what is in flight
    time: TimeConfig = field(default_factory=TimeConfig)  # the cuts between the windows of a sequence
    predictor: PredictorConfig = field(default_factory=PredictorConfig)  # the models of the gradients at the cuts
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # of every stage, alike; its schedule, clipping
    transport: TransportConfig = field(default_factory=TransportConfig)  # the links between stages
    launch: LaunchConfig = field(default_factory=LaunchConfig)  # where the stages run, and with how many threads
    emulate: EmulateConfig = field(default_factory=EmulateConfig)  # an accelerator: a pass that is done sooner sleeps
    # in training; what it computes stays the same
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)  # validation, probes, and when to stop early
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # when state is saved, and how long it stays

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
    def decay_steps(self) -> int | None:
        """Steps of the learning rate's schedule: as many as there will be at most, unless the settings say."""
        asked = self.optimizer.decay_steps
        return asked if self.optimizer.schedule is ScheduleKind.constant else asked or self.planned_steps

    @property
    def whole_sequences(self) -> bool:
        """Whether gradients flow back through whole sequences."""
        return self.time.method in (TimeMethod.full, TimeMethod.checkpointed)

    @property
    def chunk(self) -> int | None:
        """Steps of a chunk whose activations are computed again rather than kept; None: all are kept."""
        return self.data.window if self.time.method is TimeMethod.checkpointed else None

    @property
    def pipelined(self) -> bool:
        """Whether a batch goes through the stages in microbatches, and all wait until it has come back."""
        return self.depth.method in PIPELINES

    @property
    def can_encrypt(self) -> bool:
        """Whether its links know TLS; those of torch.distributed do not."""
        return not (self.pipelined or self.transport.kind is TransportKind.torch_distributed)

    @property
    def microbatches(self) -> int:
        """M in force."""
        return self.depth.microbatches or self.stages

    @property
    def parts(self) -> int:
        """Into so many parts the model is cut; part k is on stage k mod K."""
        return self.stages * (self.depth.chunks if self.depth.method in CHUNKED else 1)

    @property
    def mix(self) -> float:
        """Share of the true gradient in the targets in depth in force: none where nothing is predicted there."""
        return self.predictor.depth.mix if self.depth.method is DepthMethod.synthetic else 0.0

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
        hint = suggestion(one_line(error), setting_names())
        raise ConfigError(f"{one_line(error)}{hint} (all settings: dni-train --cfg job)") from error
    assert isinstance(config, Config)
    return config


def to_plain(config: Config) -> dict[str, Any]:
    """Nested dicts, lists, strings and numbers: the inverse of `from_any`."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config), default=lambda member: member.name))
    return plain


def setting_names() -> list[str]:
    """The dotted names of all settings and sections, each section before what is in it."""

    def inside(tree: dict[str, Any], start: str) -> list[str]:
        return [
            name
            for key, value in tree.items()
            for name in (start + key, *(inside(value, f"{start}{key}.") if isinstance(value, dict) else []))
        ]

    return inside(to_plain(Config()), "")


def one_line(error: BaseException) -> str:
    """The message without OmegaConf's trailing lines; the key it names is kept."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    first = lines[0] if lines else type(error).__name__
    return f"{keys[0]}: {first}" if keys and keys[0] not in first else first
