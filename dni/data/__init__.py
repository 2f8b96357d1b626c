"""Data sets and their deterministic sources of windows."""

from dni.data.arrays.series import Series, SeriesSource
from dni.data.arrays.tokens import Tokens, TokenSource
from dni.data.base import Data, DataContext, DataSet, in_passes
from dni.data.copy_sets import Copy, RepeatCopy
from dni.data.copy_task import CopySource
from dni.data.images import Cifar10, ImageSource, Mnist
from dni.data.sequential_mnist import PixelSource, SequentialMnist
from dni.data.source import PassSource, Source
from dni.data.text import Corpus, Text, TextSource, TextStreams, load_text
from dni.data.window import Window

__all__ = [
    "Cifar10",
    "Copy",
    "CopySource",
    "Corpus",
    "Data",
    "DataContext",
    "DataSet",
    "ImageSource",
    "Mnist",
    "PassSource",
    "PixelSource",
    "RepeatCopy",
    "SequentialMnist",
    "Series",
    "SeriesSource",
    "Source",
    "Text",
    "TextSource",
    "TextStreams",
    "TokenSource",
    "Tokens",
    "Window",
    "in_passes",
    "load_text",
]
