"""Reference models, whose layers can be cut into stages, and their recurrent layers."""

from dni.models.base import Model, ModelContext
from dni.models.images import Cnn, MlpBn, Resnet
from dni.models.init import initialise
from dni.models.language import Gru, Lstm, MinGru, Transformer
from dni.models.mingru import MinGRU
from dni.models.mlp import Mlp, mlp
from dni.models.recurrent import GRU, LSTM
from dni.models.transformer import SegmentTransformer

__all__ = [
    "GRU",
    "LSTM",
    "Cnn",
    "Gru",
    "Lstm",
    "MinGRU",
    "MinGru",
    "Mlp",
    "MlpBn",
    "Model",
    "ModelContext",
    "Resnet",
    "SegmentTransformer",
    "Transformer",
    "initialise",
    "mlp",
]
