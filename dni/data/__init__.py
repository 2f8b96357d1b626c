"""Deterministic sources of training windows."""

from dni.data.copying import CopySource
from dni.data.source import LanesSource, Source
from dni.data.text import Corpus, Lanes, Window, load_text

__all__ = ["CopySource", "Corpus", "Lanes", "LanesSource", "Source", "Window", "load_text"]
