"""All settings of a run, typed. `workers.config.validation.check` holds the rules between settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dni.data.base import DataSet
from dni.data.text import Text
from dni.loss_function import CrossEntropy, LossFunction
from dni.methods.base import DepthMethod
from dni.methods.in_time import TimeMethod, Truncated
from dni.methods.synthetic import Synthetic
from dni.metrics.validation import Metric
from dni.models.base import Model, TiedKind
from dni.models.language import Lstm
from dni.optimizers import Adam, Optimizer
from dni.predictors.head_settings import CopiedHead
from dni.ranges import one_or_more, zero_or_more
from workers.comm.transports.base import Transport
from workers.comm.transports.grpc.transport import Grpc
from workers.config.plugins import plugin, plugins
from workers.config.schema import (
    CheckpointConfig,
    EmulateConfig,
    EvaluateConfig,
    LaunchConfig,
    LaunchMode,
    Precision,
    PredictorConfig,
    TrackingConfig,
)

# OmegaConf must not type-check the sections of plug-ins.
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
    seed: int = zero_or_more(0)  # [seed] for initial weights, generated data, dropout and random updates
    steps: int = one_or_more(1000)  # [steps] length of the run; a step trains on one window of every stream
    max_timesteps: int | None = one_or_more(None)  # [time steps] stop once every stream has trained on this many,
    # for any window T; null: no limit
    stages: int = one_or_more(4)  # [stages] into which the model is split, one worker each
    devices: list[str] = field(default_factory=lambda: ["auto"])  # one for all stages, or one each: auto, cpu, cuda:N
    precision: Precision = Precision.fp32  # of matrix products, and of what stages send; parameters stay in 32 bits
    compile: bool = False  # each stage's module by torch.compile: the first step takes longer, later ones less
    log_every: int = one_or_more(10)  # [steps] between two training records of a stage
    tensorboard: bool = True  # write TensorBoard events into the run folder
    profile: bool = False  # write trace.json, a timeline of all stages for Perfetto or Chrome, into the run folder
    profile_after: int = zero_or_more(10)  # [steps] of this start of the run before the first one in the timeline
    profile_steps: int = one_or_more(100)  # [steps] in the timeline, which is kept in memory until the stage ends
    run_id: str | None = None  # launch=external: name of the run folder of all stages; null: the engine's job id
    resume: str | None = None  # run folder to continue, in the same stages or others
    resume_step: int | None = None  # [steps] checkpoint of that run to resume from; null: the newest complete one
    start_from: str | None = None  # run folder, or file of dni-export, whose weights a new run starts from; all else
    # starts fresh
    start_step: str | None = None  # checkpoint of that run: a step, best or last; null: best if there is one, else last
    model: ModelSection = plugin(Model, Lstm)  # the network: its layers, their sizes, its split points
    data: Data = plugin(DataSet, Text)  # the training data: B streams of windows of T time steps
    loss: Loss = plugin(LossFunction, CrossEntropy)  # the loss at the output of the last stage
    metrics: Metrics = plugins(Metric)  # further figures of validation: classes, each by its name, or by _target_ with
    # its settings
    depth: Depth = plugin(DepthMethod, Synthetic)  # the method at the cuts between stages, and the frames in flight
    time: Time = plugin(TimeMethod, Truncated)  # the method at the cuts between the windows of a sequence
    predictor: PredictorConfig = field(default_factory=PredictorConfig)  # models that predict the gradients at the cuts
    optimizer: OptimizerOf = plugin(Optimizer, Adam)  # the optimizer of every stage, its schedule and clipping
    transport: Links = plugin(Transport, Grpc)  # the links between stages
    launch: LaunchConfig = field(default_factory=LaunchConfig)  # how stages are started, and their threads
    emulate: EmulateConfig = field(default_factory=EmulateConfig)  # an emulated accelerator: training passes sleep
    # until these durations are over; results stay the same
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)  # validation, probes and early stopping
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # how often state is saved, and how many
    # checkpoints are kept
    tracking: TrackingConfig = field(default_factory=TrackingConfig)  # how the run is logged, and watched from outside

    @property
    def window(self) -> int:
        """T in force, in time steps: a whole sequence (of a curriculum the first) if the method in time needs it."""
        whole = self.data.whole_length if self.whole_sequences else None
        return whole or self.data.window

    @property
    def planned_steps(self) -> int:
        """Upper limit of the steps of this run, from `steps` and `max_timesteps`."""
        return self.steps if self.max_timesteps is None else min(self.steps, -(-self.max_timesteps // self.window))

    @property
    def open_ended(self) -> bool:
        """Whether the number of steps is unknown: `max_timesteps` ends the run, and windows grow with the sequences."""
        return self.max_timesteps is not None and self.whole_sequences and self.data.grows

    @property
    def decay_steps(self) -> int:
        """Length of the learning-rate schedule in steps: the setting, or else `planned_steps`."""
        return self.optimizer.schedule.decay_steps or self.planned_steps

    @property
    def whole_sequences(self) -> bool:
        """Whether gradients flow back through whole sequences."""
        return self.time.whole_sequences

    @property
    def chunk(self) -> int | None:
        """Time steps of a chunk whose activations are recomputed in the backward pass; None: all are kept."""
        return self.data.window if self.time.recomputes else None

    @property
    def pipelined(self) -> bool:
        """Whether a pipeline schedule of torch runs the stages on microbatches."""
        return self.depth.schedule is not None

    @property
    def can_encrypt(self) -> bool:
        """Whether links can use TLS; those of pipelines cannot."""
        return self.transport.encrypts and not self.pipelined

    @property
    def periods(self) -> list[int]:
        """The update period of every stage, in steps."""
        return [self.depth.update_period(stage) for stage in range(self.stages)]

    @property
    def microbatches(self) -> int:
        """M in force; 1 if batches are not split."""
        return self.depth.microbatches_of(self.stages)

    @property
    def parts(self) -> int:
        """Number of parts that the model is split into; part k is on stage k mod K."""
        return self.depth.parts(self.stages)

    @property
    def future_labels(self) -> int:
        """L in force: labels after the window, sent only if a time cut uses them."""
        return self.predictor.time.context_labels if self.time.predicts else 0

    @property
    def history(self) -> int:
        """H in force: the newest input symbols of a window, sent only if a time cut uses them."""
        return self.predictor.time.context_inputs if self.time.predicts else 0

    @property
    def threads(self) -> bool:
        """Whether the stages run as threads of one process."""
        if self.launch.mode is LaunchMode.auto:
            return self.transport.within_process
        return self.launch.mode is LaunchMode.threads

    @property
    def replaces_stages(self) -> bool:
        """Whether a lost stage, other than the first, starts again alone (`launch.restarts`): no stage needs every step
        of another, and nothing but targets and losses comes back over a link."""
        apart = self.model.tied is not TiedKind.sum and not self.optimizer.over_all_stages
        apart = apart and not isinstance(self.predictor.depth, CopiedHead)
        takes_gaps = self.depth.takes_gaps and self.depth.lag is None and self.time.takes_gaps
        own_processes = not self.threads and self.launch.mode is not LaunchMode.external
        links = self.transport.replaces_links and self.transport.any_port
        watched = self.profile or self.evaluate.probe is not None  # a probe needs all stages, a timeline the same links
        return bool(self.launch.restarts) and own_processes and links and takes_gaps and apart and not watched

    @property
    def torch_threads(self) -> int:
        """Torch threads per stage: the setting, or an equal share of this machine's cores."""
        return self.launch.torch_threads or max(1, (os.cpu_count() or 1) // self.stages)
