"""The typed schema of the groups of settings: names, defaults, and what each is for.

The comment beside a setting is its explanation, and goes on in the comment lines below it: `dni-train --explain` prints
it (`workers.cli.explain`). It begins with the unit in brackets where the setting is a number.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dni.predictors import in_depth, in_time
from dni.predictors.settings import DepthPredictor, TimePredictor
from dni.ranges import above_zero, below_one, one_or_more, zero_or_more
from workers.config.plugins import plugin

# OmegaConf leaves the sections of plug-ins open.
if TYPE_CHECKING:
    AtCut = DepthPredictor
    AtWindow = TimePredictor
else:
    AtCut = AtWindow = Any

ModelKind = enum.Enum(
    "ModelKind", ["lstm", "gru", "mingru", "transformer", "mlp", "mlp_bn", "cnn", "resnet", "two_clocks"]
)
LaunchMode = enum.Enum("LaunchMode", ["auto", "threads", "processes", "external"])
DataKind = enum.Enum("DataKind", ["text", "copy", "repeat_copy", "seqmnist", "mnist", "cifar10", "two_clocks"])
OptimizerKind = enum.Enum("OptimizerKind", ["adam", "adamw", "nadam", "sgd"])
ScheduleKind = enum.Enum("ScheduleKind", ["constant", "cosine", "linear", "step"])
InitKind = enum.Enum("InitKind", ["default", "xavier", "he"])

#: Steps of the shortest sequence that is copied, where a curriculum begins.
SHORTEST = 5


@dataclass
class ModelConfig:
    kind: ModelKind = ModelKind.lstm  # the layers between embedding and softmax; of images: mlp_bn, cnn, resnet
    units: int = one_or_more(128)  # [units] of a hidden layer; cnn, resnet: channels of the first layer
    layers: int = one_or_more(3)  # [layers] hidden ones; resnet: blocks of each of its three widths
    heads: int = one_or_more(4)  # [heads] transformer: of attention; divide the units
    memory: int = one_or_more(32)  # [time steps] transformer: inputs of earlier windows that a layer remembers and
    # attends to
    dropout: float = below_one(0.0)  # [share] set to zero in training: between recurrent layers, after the hidden
    # layers of mlp and mlp_bn, before the softmax layer of cnn and resnet, inside transformer layers; every stage draws
    # its own
    init: InitKind = InitKind.default  # of the weights of maps, with zero biases; default: torch's own, biases too
    cut_at: list[str] = field(default_factory=list)  # first layer of every stage but the first; empty: by balance
    symbols: int | None = None  # [symbols] V, how many labels there are; filled in from the data
    input_symbols: int | None = None  # [symbols] rows of the embedding; filled in from the data
    image: list[int] | None = None  # [pixels] channels, height, width; filled in from the data


@dataclass
class DataConfig:
    kind: DataKind = DataKind.text  # characters of a text, a task with made-up data, or images
    path: str | None = None  # text: file, folder, or Penn Treebank folder, null: the embedded text; images' folder
    length: int | None = one_or_more(None)  # [time steps] copy tasks: of every sequence; null: the curriculum
    side: int = 28  # [pixels] seqmnist, two_clocks: a side of the image, 28, 14 or 7
    block: int = one_or_more(4)  # [digits] two_clocks: T, of which network A counts the odd ones; B counts the 3s in
    # T^2
    streaming: bool = False  # labels after a window are not known yet: no lookahead
    label: str | None = None  # images: what to call them; null: what a label.txt beside them says, else their kind
    noise: float = zero_or_more(0.0)  # [deviations] images: Gaussian noise on the normalised ones, in training alone
    sha256: str | None = None  # of the data that is read, but for the test split of images; filled in from it
    batch: int = one_or_more(32)  # [lanes] B, examples or sequences that are trained on at once
    window: int = one_or_more(32)  # [time steps] T, of one training step; time=checkpointed: of a chunk that is
    # computed again
    sequence: int | None = one_or_more(256)  # [time steps] between resets, a multiple of T; null: lanes run on to the
    # text's end


@dataclass
class InputPredictorConfig:
    hidden: int = zero_or_more(128)  # [units] of the hidden layer, 0: linear; of the GRU where the stages before carry
    # state
    learning_rate: float = zero_or_more(1e-2)  # [rate] of its Adam; of perceptrons on images 1e-3, or their units die


@dataclass
class PredictorConfig:
    depth: AtCut = plugin(DepthPredictor, in_depth.Critic)  # at the cuts between stages, with depth=synthetic
    time: AtWindow = plugin(TimePredictor, in_time.Critic)  # at ends of windows, with time=synthetic
    inputs: InputPredictorConfig = field(default_factory=InputPredictorConfig)  # of inputs, with depth.inputs=synthetic


@dataclass
class OptimizerConfig:
    kind: OptimizerKind = OptimizerKind.adam  # torch's optimizer of that name, one for every stage
    learning_rate: float = above_zero(4e-3)  # [rate] of the stages, whatever the schedule makes of it; predictors have
    # theirs
    momentum: float = zero_or_more(0.0)  # [share] sgd only: of the last step that is taken again
    nesterov: bool = False  # sgd only: Nesterov's momentum
    beta1: float = below_one(0.9)  # [share] all but sgd: of the mean of the gradients that stays at a step
    beta2: float = below_one(0.999)  # [share] all but sgd: of the mean of their squares that stays at a step
    momentum_decay: float = zero_or_more(0.004)  # [rate] nadam only: its momentum rises as beta1 (1 -
    # 0.96^(momentum_decay n) / 2); 0: stays at half of beta1; 1000: is beta1 from the first step on
    weight_decay: float = zero_or_more(0.0)  # [share] of all parameters at every optimizer step, none without a
    # gradient; adam, sgd: added to the gradient; adamw, nadam: decoupled
    schedule: ScheduleKind = ScheduleKind.constant  # of the rate; by training steps, the same at all stages, whether
    # they moved or not
    warmup_steps: int = zero_or_more(0)  # [training steps] over which the rate rises linearly, before the schedule
    decay_steps: int | None = one_or_more(None)  # [training steps] cosine, linear: that end the schedule, with the
    # warm-up; step: between two falls; null: as many as the run will take, filled in, so that it goes on as it began
    final: float = below_one(0.0)  # [share] of the rate; cosine, linear: at the end; step: that each fall leaves
    clip: float | None = above_zero(1.0)  # [norm] largest, of a stage's gradient; a longer one is scaled down to it;
    # null: never
    accumulate: int = one_or_more(1)  # [windows] whose gradients are summed for one optimizer step
    staleness: float = zero_or_more(0.0)  # [exponent] a: a step is taken at (1 + s)^-a of the learning rate, s the
    # steps by which its gradient is late (depth=delayed), or the newest target of the predictor was (depth=synthetic)


@dataclass
class LaunchConfig:
    mode: LaunchMode = LaunchMode.auto  # what the stages are: threads, processes here, or processes of an engine
    torch_threads: int | None = one_or_more(None)  # [threads] of torch per stage; null: cores / stages


@dataclass
class EmulateConfig:
    forward_ms: float = zero_or_more(0.0)  # [milliseconds] of one batch on one stage; of a microbatch its share
    backward_ms: float = zero_or_more(0.0)  # [milliseconds] of one batch on one stage; the optimizer's step comes on
    # top
    cut_ms: float = zero_or_more(0.0)  # [milliseconds] of one update of what is at a cut: a predictor, for each target
    # that has come, or a local head


@dataclass
class EvaluateConfig:
    every: int | None = one_or_more(250)  # [steps] between validation passes; null: only at the end
    windows: int | None = one_or_more(None)  # [windows] of validation per pass; null: all
    probe: int | None = one_or_more(None)  # [steps] between probes: synthetic against exact gradients on one sequence;
    # null: none
    probe_windows: int = one_or_more(8)  # [windows] most, of that sequence, all of whose activations are kept
    patience: int | None = one_or_more(None)  # [passes] stop after so many that were no better than the best; each is
    # then saved


@dataclass
class CheckpointConfig:
    every: int | None = one_or_more(500)  # [steps] between checkpoints; null: only at the end
    keep: int = one_or_more(2)  # [checkpoints] complete ones that stay; older ones are removed


#: Where the inputs are images, whose folders have the names of the kinds if data.path does not say otherwise.
IMAGES: dict[DataKind, Literal["mnist", "cifar10"]] = {DataKind.mnist: "mnist", DataKind.cifar10: "cifar10"}
