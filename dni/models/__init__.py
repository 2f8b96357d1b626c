"""Reference models: chains of named layers, ready to be cut into stages."""

from dni.models.images import image_model
from dni.models.init import initialise
from dni.models.language import language_model
from dni.models.mingru import MinGRU
from dni.models.mlp import char_mlp, mlp
from dni.models.recurrent import GRU, LSTM
from dni.models.transformer import SegmentTransformer
from dni.models.two_clocks import two_clocks

__all__ = [
    "GRU",
    "LSTM",
    "MinGRU",
    "SegmentTransformer",
    "char_mlp",
    "image_model",
    "initialise",
    "language_model",
    "mlp",
    "two_clocks",
]
