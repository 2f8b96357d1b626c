"""dni/data/source.py: a text as a source, and streams without future labels."""

import json

import pytest
import torch

from dni.data import Source, TextSource, TextStreams, load_text
from dni.errors import ConfigError


def test_streams_in_order_and_resumed() -> None:
    streams = TextStreams(torch.arange(17), batch=2, window=2, future_labels=1)
    source: Source = TextSource(streams, symbols=17)
    assert (source.symbols, source.input_symbols, source.streaming) == (17, 17, False)
    for n in range(4):  # the fourth begins the next pass
        window = source.next()
        source.report(n, 1.0, 4)
        assert all(torch.equal(a, b) for a, b in zip(window[:4], streams.window(n)[:4], strict=True))
    again = TextSource(streams, symbols=17)
    again.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert torch.equal(again.next().inputs, streams.window(4).inputs)


def test_corpus_has_its_number_of_symbols() -> None:
    corpus = load_text()
    source = TextSource(TextStreams(corpus.train, 2, 8), len(corpus.symbols))
    assert int(source.next().inputs.max()) < source.symbols == len(corpus.symbols)


def test_streaming_source_refuses_future_labels() -> None:
    assert TextSource(TextStreams(torch.arange(9), 1, 2), 9, streaming=True).streaming
    with pytest.raises(ConfigError, match="does not know the 3 labels after a window: use future_labels 0"):
        TextSource(TextStreams(torch.arange(9), 1, 2, future_labels=3), 9, streaming=True)
