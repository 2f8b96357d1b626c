"""The typed schema of the groups of settings: names, defaults, and what each is for.

The comment beside a setting is its explanation, and goes on in the comment lines below it: `dni-train --explain` prints
it (`workers.cli.explain`). It begins with the unit in brackets where the setting is a number.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

from dni.ranges import above_zero, below_one, one_or_more, zero_or_more

TimeMethod = enum.Enum("TimeMethod", ["full", "checkpointed", "truncated", "synthetic"])
PredictorKind = enum.Enum("PredictorKind", ["critic", "mlp", "linear", "conv", "oracle"])
Context = enum.Enum("Context", ["none", "window", "lookahead"])
ModelKind = enum.Enum(
    "ModelKind", ["lstm", "gru", "mingru", "transformer", "mlp", "mlp_bn", "cnn", "resnet", "two_clocks"]
)
LaunchMode = enum.Enum("LaunchMode", ["auto", "threads", "processes", "external"])
DataKind = enum.Enum("DataKind", ["text", "copy", "repeat_copy", "seqmnist", "mnist", "cifar10", "two_clocks"])
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
class TimeConfig:
    method: TimeMethod = TimeMethod.truncated  # where the gradient at the end of a window comes from


@dataclass
class CutPredictorConfig:
    kind: PredictorKind = PredictorKind.critic  # the model of the gradient; oracle: exact gradients, in time only
    hidden: int = zero_or_more(0)  # [units] of the hidden layer (mlp, critic, the head of depth=local); conv: channels
    match: float = zero_or_more(1.0)  # [weight] critic: of the squared distance to the target gradient
    learning_rate: float = zero_or_more(3e-3)  # [rate] of the predictor's own Adam
    fits: int = one_or_more(1)  # [steps] of the predictor per target
    warmup: int = zero_or_more(0)  # [steps] of the predictor before the stage moves
    scale: float = zero_or_more(1.0)  # [factor] on the synthetic gradient that the network receives
    clip: float | None = above_zero(None)  # [norm] largest, of the predictor's own gradient; null: not clipped


@dataclass
class DepthPredictorConfig(CutPredictorConfig):  # depth=local has a classifier instead, of `hidden` and `learning_rate`
    labels: bool = True  # labels as context of a regressor; a critic always uses them
    at_once: bool = False  # critic: learn the loss when the value leaves; only the match waits for the target
    fade: float = zero_or_more(0.0)  # [exponent] a, with at_once: the match to a target that is s steps late counts (1
    # + s)^-a
    replay: int = zero_or_more(0)  # [targets] before it that every target is fitted together with; they are kept with
    # their values
    cells: int = one_or_more(4)  # [cells] critic of feature maps: it sees the means in a grid of so many cells a side


@dataclass
class TimePredictorConfig(CutPredictorConfig):
    context: Context = Context.lookahead  # beside the state: nothing, the last `history` inputs, the next labels
    lookahead: int = one_or_more(1)  # [labels] L, after the window; a critic with context=window guesses them, and
    # learns when they have come
    history: int = one_or_more(32)  # [symbols] H, of the input up to the end of the window, that context=window sees
    horizon: int = one_or_more(1)  # [windows] M, that are run again together for M targets of the time cut; 1: none is
    lambda_: float = zero_or_more(0.0)  # [share] of a horizon's later targets, against the prediction; named so as
    # lambda is Python's
    auxiliary: float = zero_or_more(0.0)  # [weight] of the auxiliary task, to foretell the prediction at the next
    # window's end


@dataclass
class InputPredictorConfig:
    hidden: int = zero_or_more(128)  # [units] of the hidden layer, 0: linear; of the GRU where the stages before carry
    # state
    learning_rate: float = zero_or_more(1e-2)  # [rate] of its Adam; of perceptrons on images 1e-3, or their units die


@dataclass
class PredictorConfig:
    depth: DepthPredictorConfig = field(default_factory=DepthPredictorConfig)  # at the cuts between stages
    time: TimePredictorConfig = field(default_factory=TimePredictorConfig)  # at ends of windows, with time=synthetic
    inputs: InputPredictorConfig = field(default_factory=InputPredictorConfig)  # of inputs, with depth.inputs=synthetic


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
