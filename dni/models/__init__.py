"""Reference models, whose layers can be cut into stages, and their recurrent layers."""

from dni.models.base import Model, ModelContext
from dni.models.images import Cnn, MlpBn, Resnet
from dni.models.init import initialise
from dni.models.language import Gru, Lstm, MinGru, MinLstm, Transformer
from dni.models.lru import LRU
from dni.models.mingru import MinGRU
from dni.models.minlstm import MinLSTM
from dni.models.mlp import Mlp, mlp
from dni.models.recurrent import GRU, LSTM
from dni.models.residual import Residual, ResidualBlock
from dni.models.transformer import SegmentTransformer

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "Cnn",
    "Gru",
    "Lstm",
    "MinGRU",
    "MinGru",
    "MinLSTM",
    "MinLstm",
    "Mlp",
    "MlpBn",
    "Model",
    "ModelContext",
    "Residual",
    "ResidualBlock",
    "Resnet",
    "SegmentTransformer",
    "Transformer",
    "initialise",
    "mlp",
]
