"""Deterministic sources of training windows."""

from dni.data.copy_task import CopySource
from dni.data.images import ImageSource
from dni.data.sequential_mnist import PixelSource
from dni.data.source import Source
from dni.data.text import Corpus, Lanes, LanesSource, load_text
from dni.data.two_clocks import TwoClocksSource
from dni.data.window import Window

__all__ = [
    "CopySource",
    "Corpus",
    "ImageSource",
    "Lanes",
    "LanesSource",
    "PixelSource",
    "Source",
    "TwoClocksSource",
    "Window",
    "load_text",
]
