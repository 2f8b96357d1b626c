"""Train the stages of a split network without waiting: synthetic gradients at every cut.

This package holds the mathematics of one stage. Processes, links and settings are in `workers`.
"""

from dni.errors import UsageError
from dni.interfaces.base import Interface, TrueInterface, ZeroInterface
from dni.interfaces.corrected import CorrectedInterface
from dni.interfaces.delayed import DelayedInterface
from dni.interfaces.local import LocalInterface
from dni.interfaces.loss import LossInterface, SquaredLossInterface
from dni.interfaces.oracle import Oracle, OracleInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.base import Predictor
from dni.predictors.convolutional import ConvRegressor, Flattened, PooledCritic
from dni.predictors.critic import SoftmaxCritic, SquaredCritic
from dni.predictors.head_critic import HeadCritic
from dni.predictors.regressor import Regressor
from dni.predictors.soft_label_critic import SoftLabelCritic
from dni.recurrent import Chain, Recurrent, UnitParameter
from dni.stages.base import Stage
from dni.stages.correcting import CorrectingStage
from dni.stages.graph import Gradients
from dni.stages.online import OnlineStage
from dni.stages.partition import partition
from dni.stages.weight_stashing import StashingStage
from dni.time_targets.base import Bootstrap, PastWindow, StateTarget
from dni.time_targets.deferred import DeferredTargets

__version__ = "0.1.0"

__all__ = [
    "Bootstrap",
    "Chain",
    "ConvRegressor",
    "CorrectedInterface",
    "CorrectingStage",
    "DecoupledInterface",
    "DeferredTargets",
    "DelayedInterface",
    "Flattened",
    "Gradients",
    "HeadCritic",
    "Interface",
    "LocalInterface",
    "LossInterface",
    "OnlineStage",
    "Oracle",
    "OracleInterface",
    "PastWindow",
    "PooledCritic",
    "Predictor",
    "Recurrent",
    "Regressor",
    "SoftLabelCritic",
    "SoftmaxCritic",
    "SquaredCritic",
    "SquaredLossInterface",
    "Stage",
    "StashingStage",
    "StateTarget",
    "TrueInterface",
    "UnitParameter",
    "UsageError",
    "ZeroInterface",
    "__version__",
    "partition",
]
