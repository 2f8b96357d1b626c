"""GPT-2 of the `transformers` library, with random weights, as a list of parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from dni.models import ModelContext


class Embedding(nn.Module):
    """Symbols (B, T) -> (B, T, D), by the token and position embeddings of a GPT-2."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__()
        self.wte, self.wpe = model.transformer.wte, model.transformer.wpe

    def forward(self, x: Tensor) -> Tensor:
        return self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device).unsqueeze(0))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A block of a GPT-2, whose attention is causal."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        found = self.block(x)
        return found[0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]


def whole(
    context: ModelContext, layers: int = 4, width: int = 64, heads: int = 4, positions: int = 64, tie: bool = False
) -> GPT2LMHeadModel:
    """Return the unsplit model, without dropout. Without `tie`, the scores have weights of their own."""
    settings = GPT2Config(
        vocab_size=context.symbols, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=tie, use_cache=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(settings)


def parts(
    context: ModelContext, layers: int = 4, width: int = 64, heads: int = 4, positions: int = 64, tie: bool = False
) -> dict[str, nn.Module]:
    """Return the parts of `whole`: its embeddings, its blocks, and its last norm with the scores.

    With `tie`, the first and the last share a matrix, which model.tied says how to treat.
    """
    model = whole(context, layers, width, heads, positions, tie)
    blocks = {f"h{n}": Block(each) for n, each in enumerate(model.transformer.h)}
    scores = nn.Sequential(model.transformer.ln_f, model.lm_head)
    return {"embedding": Embedding(model), **blocks, "scores": scores}
