"""Deterministic sources of training windows."""

from dni.data.text import Corpus, Lanes, Window, load_text

__all__ = ["Corpus", "Lanes", "Window", "load_text"]
