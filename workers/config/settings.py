"""All settings of a run, typed. The rules between settings are in `workers.config.validation.check`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dni.data.base import DataSet
from dni.data.text import Text
from dni.loss_function import CrossEntropy, LossFunction
from dni.methods.base import DepthMethod
from dni.methods.in_time import TimeMethod, Truncated
from dni.methods.pipelined import Chunked, Pipelined
from dni.methods.synthetic import Synthetic
from dni.models.base import Model
from dni.models.language import Lstm
from dni.optimizers import Adam, Optimizer
from dni.ranges import one_or_more, zero_or_more
from dni.validation_metrics import Metric
from workers.comm.transports.base import Transport
from workers.comm.transports.grpc.transport import Grpc
from workers.config.plugins import plugin, plugins
from workers.config.schema import (
    CheckpointConfig,
    EmulateConfig,
    EvaluateConfig,
    LaunchConfig,
    LaunchMode,
    PredictorConfig,
)

# OmegaConf leaves the sections of plug-ins open.
if TYPE_CHECKING:
    Data = DataSet
    Depth = DepthMethod
    Loss = LossFunction
    ModelSection = Model
    Time = TimeMethod
    Links = Transport
    OptimizerOf = Optimizer
    Metrics = list[Metric]
else:
    Metrics = list[Any]
    Data = Depth = Loss = ModelSection = Time = Links = OptimizerOf = Any


@dataclass
class Config:
    experiment: str = "default"  # the name of the experiment in summaries and reports
    seed: int = zero_or_more(0)  # [seed] of first weights, made-up data, dropout and random updates
    steps: int = one_or_more(1000)  # [steps] after which the run ends: a step trains on one window of every stream
    max_timesteps: int | None = one_or_more(
        None
    )  # [time steps] stop once every stream has run through so many, whatever T;
    # null: never
    stages: int = one_or_more(4)  # [stages] into which the model is cut, one worker each
    devices: list[str] = field(default_factory=lambda: ["auto"])  # one for all stages, or one each: auto, cpu, cuda:N
    log_every: int = one_or_more(10)  # [steps] between two training records of a stage
    tensorboard: bool = True  # write TensorBoard events into the run folder
    run_id: str | None = None  # launch=external: the name of the folder that all stages share; null: the engine's job
    resume: str | None = None  # run folder to go on from
    resume_step: int | None = None  # [steps] which of its checkpoints; null: the newest complete one
    start_from: str | None = None  # run folder whose weights a new run begins with; all else is new
    start_step: str | None = None  # which of its checkpoints: a number of steps, best or last; null: best, else last
    model: ModelSection = plugin(Model, Lstm)  # the network: its layers, their sizes, where it is cut
    data: Data = plugin(DataSet, Text)  # what is learned: B streams of windows of T steps
    loss: Loss = plugin(LossFunction, CrossEntropy)  # of the network, at the end of the last stage
    metrics: Metrics = plugins(Metric)  # of validation, beside the loss: classes, each by its name, or by _target_ with
    # its settings
    depth: Depth = plugin(DepthMethod, Synthetic)  # the cuts between stages: the method, what is in flight
    time: Time = plugin(TimeMethod, Truncated)  # the cuts between the windows of a sequence
    predictor: PredictorConfig = field(default_factory=PredictorConfig)  # the models of the gradients at the cuts
    optimizer: OptimizerOf = plugin(Optimizer, Adam)  # of every stage, alike; its schedule, clipping
    transport: Links = plugin(Transport, Grpc)  # the links between stages
    launch: LaunchConfig = field(default_factory=LaunchConfig)  # where the stages run, and with how many threads
    emulate: EmulateConfig = field(default_factory=EmulateConfig)  # an accelerator: a pass that is done sooner sleeps
    # in training; what it computes stays the same
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)  # validation, probes, and when to stop early
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # when state is saved, and how long it stays

    @property
    def window(self) -> int:
        """T in force: where the method in time says so one whole sequence, of a curriculum the first."""
        whole = self.data.whole_length if self.whole_sequences else None
        return whole or self.data.window

    @property
    def planned_steps(self) -> int:
        """At most so many steps will be taken, for whoever shows progress."""
        return self.steps if self.max_timesteps is None else min(self.steps, -(-self.max_timesteps // self.window))

    @property
    def open_ended(self) -> bool:
        """Whether nobody knows how many steps it takes: `max_timesteps` ends it, and whole sequences grow."""
        return self.max_timesteps is not None and self.whole_sequences and self.data.grows

    @property
    def decay_steps(self) -> int:
        """Steps of the learning rate's schedule: as many as there will be at most, unless the settings say."""
        return self.optimizer.schedule.decay_steps or self.planned_steps

    @property
    def whole_sequences(self) -> bool:
        """Whether gradients flow back through whole sequences."""
        return self.time.whole_sequences

    @property
    def chunk(self) -> int | None:
        """Steps of a chunk whose activations are computed again rather than kept; None: all are kept."""
        return self.data.window if self.time.recomputes else None

    @property
    def pipelined(self) -> bool:
        """Whether a batch goes through the stages in microbatches, and all wait until it has come back."""
        return isinstance(self.depth, Pipelined)

    @property
    def can_encrypt(self) -> bool:
        """Whether its links know TLS; those of pipelines do not."""
        return self.transport.encrypts and not self.pipelined

    @property
    def microbatches(self) -> int:
        """M in force; 1 for a batch that is taken as a whole."""
        return self.depth.count(self.stages) if isinstance(self.depth, Pipelined) else 1

    @property
    def parts(self) -> int:
        """Into so many parts the model is cut; part k is on stage k mod K."""
        return self.stages * (self.depth.virtual_stages if isinstance(self.depth, Chunked) else 1)

    @property
    def future_labels(self) -> int:
        """L in force: labels beyond the window travel only where a time cut uses them."""
        return self.predictor.time.context_labels if self.time.predicts else 0

    @property
    def history(self) -> int:
        """H in force: input symbols travel only where a time cut uses them."""
        return self.predictor.time.context_inputs if self.time.predicts else 0

    @property
    def threads(self) -> bool:
        """Whether the stages are threads of one process."""
        if self.launch.mode is LaunchMode.auto:
            return self.transport.within_process
        return self.launch.mode is LaunchMode.threads

    @property
    def torch_threads(self) -> int:
        """Torch threads per stage: an explicit number, or an equal share of this machine's cores."""
        return self.launch.torch_threads or max(1, (os.cpu_count() or 1) // self.stages)
