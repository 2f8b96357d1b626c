"""dni/metrics.py, against numbers worked out by hand."""

import math

import pytest
import torch

from dni.data import load_text
from dni.metrics.fit import bits, cosine, hits, ngram_bits
from dni.types import IGNORED


def test_bits() -> None:
    assert bits(math.log(8)) == pytest.approx(3.0)


def test_hits_are_counted_labels_with_the_largest_score() -> None:
    scores = torch.tensor([[[0.1, 0.9], [2.0, -1.0]], [[5.0, 4.0], [0.0, 1.0]]])  # largest: 1 0 / 0 1
    assert hits(scores, torch.tensor([[1, 1], [IGNORED, 1]])) == 2
    assert hits(scores, torch.full((2, 2), IGNORED)) == 0


def test_unigram_by_hand() -> None:
    # Counts of 0, 0, 1 with 0.5 added: p(0) = 2.5/4, p(1) = 1.5/4.
    train, valid = torch.tensor([0, 0, 1]), torch.tensor([1, 0])
    expected = -(math.log2(1.5 / 4) + math.log2(2.5 / 4)) / 2
    assert ngram_bits(train, valid, 1, symbols=2, add=0.5) == pytest.approx(expected)


def test_bigram_by_hand() -> None:
    # Pairs of 0 1 0 1 2: 01, 10, 01, 12. Asked about 0 1 1 2: 01 (2 of 2), 11 (0 of 2), 12 (1 of 2).
    train, valid = torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0, 1, 1, 2])
    expected = -(math.log2(2.1 / 2.3) + math.log2(0.1 / 2.3) + math.log2(1.1 / 2.3)) / 3
    assert ngram_bits(train, valid, 2, symbols=3) == pytest.approx(expected)


def test_a_context_never_seen_is_uniform() -> None:
    train, valid = torch.tensor([0, 1, 0]), torch.tensor([3, 2])
    assert ngram_bits(train, valid, 2, symbols=4) == pytest.approx(2.0)


def test_trigram_by_hand() -> None:
    # Triples of 0 0 1 0 0 1: 001 (twice), 010, 100. Asked about 0 0 1: 001, 2 of 2.
    train, valid = torch.tensor([0, 0, 1, 0, 0, 1]), torch.tensor([0, 0, 1])
    assert ngram_bits(train, valid, 3, symbols=2) == pytest.approx(-math.log2(2.1 / 2.2))


def test_ngrams_of_the_built_in_text() -> None:
    corpus = load_text()
    uni, bi, tri = (ngram_bits(corpus.train, corpus.valid, order, len(corpus.symbols)) for order in (1, 2, 3))
    assert 4.5 < uni < 4.9
    assert 3.1 < bi < 3.6
    assert 2.2 < tri < 2.8


def test_ngrams_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(ValueError, match="order 0 must be at least 1"):
        ngram_bits(torch.tensor([0]), torch.tensor([0]), 0, symbols=2)
    with pytest.raises(ValueError, match=r"100\^10 below 2\^63"):
        ngram_bits(torch.zeros(20), torch.zeros(20), 10, symbols=100)
    with pytest.raises(ValueError, match="not of 5 and 1"):
        ngram_bits(torch.zeros(5), torch.zeros(1), 2, symbols=2)


def test_cosine() -> None:
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert cosine(a, b) == pytest.approx(24 / 25)
    assert cosine(a, -2 * a) == pytest.approx(-1.0)
    assert cosine(a, torch.zeros(1, 2)) == 0.0
    # Squares of these are below the smallest float32.
    assert cosine(a * 1e-30, b * 1e-30) == pytest.approx(24 / 25)
