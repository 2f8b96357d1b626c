"""Train a network whose stages do not wait for each other: synthetic gradients at every cut.

This package is the mathematics of one stage: no network, no configuration files, no processes (those are `workers`).
"""

from dni.auxiliary import Auxiliary
from dni.bootstrap import Bootstrap, PastWindow, StateTarget
from dni.convolutional import ConvRegressor, Flattened, PooledCritic
from dni.guessing import GuessingCritic
from dni.hindsight import Hindsight
from dni.horizon import Horizon
from dni.interface import DecoupledInterface, Interface, LossInterface, TrueInterface, ZeroInterface
from dni.oracle import Oracle, OracleInterface
from dni.partition import partition
from dni.predictor import Predictor, Regressor, SoftmaxCritic
from dni.recurrent import Chain, Recurrent
from dni.stage import Gradients, Stage

__all__ = [
    "Auxiliary",
    "Bootstrap",
    "Chain",
    "ConvRegressor",
    "DecoupledInterface",
    "Flattened",
    "Gradients",
    "GuessingCritic",
    "Hindsight",
    "Horizon",
    "Interface",
    "LossInterface",
    "Oracle",
    "OracleInterface",
    "PastWindow",
    "PooledCritic",
    "Predictor",
    "Recurrent",
    "Regressor",
    "SoftmaxCritic",
    "Stage",
    "StateTarget",
    "TrueInterface",
    "ZeroInterface",
    "partition",
]
