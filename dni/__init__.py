"""Train a network whose stages do not wait for each other: synthetic gradients at every cut.

This package is the mathematics of one stage: no network, no configuration files, no processes (those are `workers`).
"""

from dni.interface import DecoupledInterface, Interface, LossInterface, TrueInterface, ZeroInterface
from dni.oracle import Oracle
from dni.partition import partition
from dni.predictor import Predictor, Regressor, SoftmaxCritic
from dni.recurrent import Chain, Recurrent
from dni.stage import Gradients, Stage

__all__ = [
    "Chain",
    "DecoupledInterface",
    "Gradients",
    "Interface",
    "LossInterface",
    "Oracle",
    "Predictor",
    "Recurrent",
    "Regressor",
    "SoftmaxCritic",
    "Stage",
    "TrueInterface",
    "ZeroInterface",
    "partition",
]
