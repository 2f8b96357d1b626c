"""`dni-sample`: write text with a run trained on characters, its stages joined in one process.

It reads only weights and opens no ports. The model reads one stream and carries its state from character to character,
as `dni-evaluate` carries it from window to window.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from dni import __version__
from dni.data.tokenizer import Tokenizer
from dni.errors import CheckpointError, ConfigError, DniError
from dni.recurrent import Chain
from workers.build.device import device_of
from workers.build.trace import is_traced
from workers.cli.evaluate import load_parts, read_settings, trained_settings
from workers.cli.spelling import Spelling, held_back, spelling_of
from workers.config.settings import Config
from workers.resume.choice import choose
from workers.storage import vocabulary


@dataclass(frozen=True)
class Sampling:
    """How the next character is drawn.

    Args:
        temperature: divides the scores before the softmax; below 1 favours likely characters, 0 takes the likeliest
        top_k: draw from so many of the likeliest characters; None: all

    Raises ConfigError for other numbers.
    """

    temperature: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"--temperature {self.temperature}: give 0 (always the likeliest character) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"--top-k {self.top_k}: give 1 or more, or omit it to draw from all characters")

    def probabilities(self, scores: Tensor) -> Tensor:
        """Turn scores (V,) into probabilities (V,), float64 on the CPU."""
        scores = scores.detach().double().cpu()
        k = 1 if self.temperature == 0 else min(self.top_k or len(scores), len(scores))
        best = scores.topk(k)
        drawn = torch.softmax((best.values - best.values[0]) / (self.temperature or 1.0), 0)
        return torch.zeros_like(scores).scatter(0, best.indices, drawn)


class Reader:
    """A model that reads characters in sequence and scores the next one.

    Args:
        model: the whole model, without cuts
        chunk: characters read at once; it does not change the result
        device: where the model computes
    """

    def __init__(self, model: Chain, chunk: int, device: torch.device | str = "cpu") -> None:
        self.model, self.chunk, self.device = model.to(device).eval(), chunk, torch.device(device)
        self.state = self.model.initial_state(1)

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> Tensor:
        """Read one symbol or more; return the scores (V,) of the next one."""
        text = torch.tensor([ids], device=self.device)
        for part in torch.split(text, self.chunk, dim=1):
            output, self.state = self.model(part, self.state)
        return output[0, -1]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Writer:
    """A trained run that writes text. `spelling` turns text into symbols and back; `step` is that of its checkpoint."""

    reader: Reader
    spelling: Spelling
    step: int

    def encode(self, text: str) -> list[int]:
        """Return the symbols of a text. Raises ConfigError if it is empty or has a character that the run does not
        know."""
        return self.spelling.encode(text)

    def write(self, prompt: str, length: int, sampling: Sampling, seed: int) -> Iterator[str]:
        """Yield the text of `length` characters (or tokens) that follow the prompt, as they are drawn. Raises
        CheckpointError for non-finite scores."""
        generator, ids = torch.Generator().manual_seed(seed), self.encode(prompt)
        known, said = [*ids], len(self.spelling.decode(ids))
        for _ in range(length):
            scores = self.reader.read(ids)
            if not scores.isfinite().all():
                raise CheckpointError(f"step {self.step}: the model's scores are not finite; take an earlier --step")
            ids = [int(torch.multinomial(sampling.probabilities(scores), 1, generator=generator))]
            known += ids
            whole = held_back(self.spelling.decode(known))
            yield whole[said:]
            said = max(said, len(whole))
        rest = self.spelling.decode(known)[said:]
        if rest:  # bytes of an unfinished character
            yield rest


def open_writer(run_dir: Path, step: str | None = None) -> Writer:
    """Join the stages of a run's checkpoint. `step` is a number, best or last; default as for `dni-evaluate`.

    Raises ConfigError if the run or step is missing or is not on text, CheckpointError if a file cannot be read.
    """
    config = trained_settings(run_dir)
    refuse_other_data(config, run_dir)
    symbols = vocabulary.load(run_dir, config.model.symbols) or _symbols_of_text(run_dir)
    chosen = choose(run_dir, step, "--step ").step
    (model,) = load_parts(config, run_dir, chosen)
    if is_traced(model):
        raise ConfigError(
            f"{run_dir}: model={config.model.name} was traced for batches of {config.data.batch}, and text is written "
            "one stream at a time: let its function return a list of parts"
        )
    torch.set_num_threads(config.torch_threads)  # as in training and evaluation
    reader = Reader(model, config.window, device_of(replace(config, devices=["auto"]), 0))
    return Writer(reader, spelling_of(symbols), chosen)


def _symbols_of_text(run_dir: Path) -> tuple[str, ...] | Tokenizer:
    config, data = read_settings(run_dir)
    if data.tokenizer is not None:
        return Tokenizer(data.tokenizer, str(run_dir))
    assert data.characters is not None, f"a text (data={config.data.name}) has characters"
    return data.characters


def refuse_other_data(config: Config, run_dir: Path) -> None:
    """Raise ConfigError unless the run predicts a character at every step."""
    if not config.data.is_text:
        raise ConfigError(
            f"{run_dir}: trained on data={config.data.name}: only runs on text (data=text or ptb) can write text"
        )
    if max(config.periods) > 1:
        raise ConfigError(
            f"{run_dir}: with update periods {config.periods} the last stage does not answer at every character"
        )


class OneLineParser(argparse.ArgumentParser):
    """Report bad arguments in one line, as all other errors."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (dni-sample --help)")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser("dni-sample", description="Write text with a run that was trained on text.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a run folder")
    parser.add_argument("--prompt", default="\n", metavar="TEXT", help="start of the text; default: a new line")
    parser.add_argument("--length", type=int, default=500, metavar="N", help="characters or tokens (default 500)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0: greedy (default 1)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest symbols; default: all")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (default 0)")
    parser.add_argument("--step", metavar="N|best|last", help="default: the best by validation if saved, else the last")
    return parser


def _write_text(run: argparse.Namespace) -> None:
    if run.length < 1:
        raise ConfigError(f"--length {run.length}: give 1 or more")
    if not 0 <= run.seed < 2**63:
        raise ConfigError(f"--seed {run.seed}: give a number from 0 to 2^63 - 1")
    sampling = Sampling(run.temperature, run.top_k)
    text = open_writer(run.run_dir, run.step).write(run.prompt, run.length, sampling, run.seed)
    first = next(text)  # raises all refusals before any output
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal may lack some characters
    for part in chain([run.prompt, first], text, ["\n"]):
        sys.stdout.write(part)
        sys.stdout.flush()  # show every character at once


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-sample`. Returns 0, or 2 after one line on stderr that says what to change.

    Ctrl-C ends the text with 130, a closed pipe with 0.
    """
    try:
        _write_text(_parser().parse_args(argv))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python reports the broken pipe at exit
    except KeyboardInterrupt:
        print(flush=True)
        return 130
    except (DniError, OSError) as error:
        print(f"dni-sample: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
