"""Train a network whose stages do not wait for each other: synthetic gradients at every cut.

This package is the mathematics of one stage: no network, no configuration files, no processes (those are `workers`).
"""

from dni.around import SlowerInterface
from dni.auxiliary import Auxiliary
from dni.bootstrap import Bootstrap, PastWindow, StateTarget
from dni.convolutional import ConvRegressor, Flattened, PooledCritic
from dni.decoupled import DecoupledInterface
from dni.delayed import DelayedInterface
from dni.errors import UsageError
from dni.guessing import GuessingCritic
from dni.hindsight import Hindsight
from dni.horizon import Horizon
from dni.inputs import InputInterface
from dni.interface import Interface, LossInterface, TrueInterface, ZeroInterface
from dni.local import LocalInterface
from dni.oracle import Oracle, OracleInterface
from dni.own_task import OwnTask
from dni.partition import partition
from dni.predictor import Predictor, Regressor, SoftmaxCritic
from dni.recurrent import Chain, Recurrent
from dni.regression import SquaredCritic, SquaredLossInterface
from dni.retold import RetellingStage
from dni.stage import Gradients, Stage
from dni.stash import StashingStage

__version__ = "0.1.0"

__all__ = [
    "Auxiliary",
    "Bootstrap",
    "Chain",
    "ConvRegressor",
    "DecoupledInterface",
    "DelayedInterface",
    "Flattened",
    "Gradients",
    "GuessingCritic",
    "Hindsight",
    "Horizon",
    "InputInterface",
    "Interface",
    "LocalInterface",
    "LossInterface",
    "Oracle",
    "OracleInterface",
    "OwnTask",
    "PastWindow",
    "PooledCritic",
    "Predictor",
    "Recurrent",
    "Regressor",
    "RetellingStage",
    "SlowerInterface",
    "SoftmaxCritic",
    "SquaredCritic",
    "SquaredLossInterface",
    "Stage",
    "StashingStage",
    "StateTarget",
    "TrueInterface",
    "UsageError",
    "ZeroInterface",
    "__version__",
    "partition",
]
