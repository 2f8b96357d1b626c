"""A small model of symbols whose embedding and scores are one parameter."""

from __future__ import annotations

from torch import Tensor, nn

from dni.models import ModelContext


class Hidden(nn.Module):
    """A layer with a residual connection (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x).tanh()


class Mixed(Hidden):
    """A hidden layer that also uses a shared matrix (V, D)."""

    def __init__(self, shared: nn.Parameter) -> None:
        super().__init__(shared.shape[1])
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x @ self.shared.T).tanh().mean(-1, keepdim=True)


def tied(context: ModelContext, width: int = 8, hidden: int = 2, uses: int = 2, bias: bool = True) -> nn.Sequential:
    """Return an embedding, hidden layers, and scores by the embedding's matrix; with `uses=3` one more use between."""
    embedding = nn.Embedding(context.input_symbols, width)
    scores = nn.Linear(width, context.symbols, bias=bias)
    scores.weight = embedding.weight
    layers = [Hidden(width) for _ in range(hidden)]
    if uses == 3:
        layers[-1] = Mixed(embedding.weight)
    return nn.Sequential(embedding, *layers, scores)


class Network(nn.Module):
    """The same as one module, which is traced."""

    def __init__(self, context: ModelContext) -> None:
        super().__init__()
        self.embedding = nn.Embedding(context.input_symbols, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.scores = nn.Linear(8, context.symbols, bias=False)
        self.scores.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        scores: Tensor = self.scores(x)
        return scores


def network(context: ModelContext) -> nn.Module:
    """Return a module without an order of layers."""
    return Network(context)
