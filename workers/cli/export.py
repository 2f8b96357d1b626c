"""`dni-export`: the whole model of a run in one safetensors file, as if it had never been cut."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dni import __version__
from dni.data.tokenizer import Tokenizer
from dni.errors import DniError
from dni.stages.tied import tied_names
from workers.cli.evaluate import load_parts, trained_settings
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.resume.choice import choose
from workers.storage import vocabulary, weights_file
from workers.system.errors import refusals_at_the_door


@dataclass(frozen=True)
class Exported:
    """What was written: the file, the step of its weights, which one that is, and how many numbers they are."""

    path: Path
    step: int
    which: str
    numbers: int


def export(run_dir: Path, path: Path, step: str | None = None) -> Exported:
    """Write the parameters and buffers of one checkpoint of a run into a new file.

    Their names are those of the `nn.Sequential` that the model's `build` returns; a parameter of several layers has its
    first name. Predictors and local heads are not in it. The data of the run need not be there. `step`: a number, best
    or last; default: best where it is known and saved. Raises ConfigError for what there is not and a file that is
    there already, CheckpointError for what cannot be read.
    """
    weights_file.refuse_target(path)
    config = trained_settings(run_dir)
    choice = choose(run_dir, step, "--step ")
    parts = load_parts(config, run_dir, choice.step)
    tied = tied_names(parts)
    tensors = {name: each for part in parts for name, each in part.state_dict().items() if name not in tied}
    weights_file.write(path, tensors, facts(config, run_dir, choice.step, choice.which) | weights_file.tied_fact(tied))
    return Exported(path, choice.step, choice.which, sum(p.numel() for part in parts for p in part.parameters()))


def facts(config: Config, run_dir: Path, step: int, which: str) -> dict[str, str]:
    """Return the file's metadata: the model as JSON, the step, the data, and a text's characters or tokenizer."""
    symbols = vocabulary.load(run_dir, config.model.symbols)
    plain = to_plain(config)
    return {
        "dni": __version__,
        "model": json.dumps(plain["model"]),
        "step": str(step),
        "which": which,
        "data": json.dumps({"name": config.data.name, "sha256": config.data.sha256}),
        **_text_facts(symbols),
    }


def _text_facts(symbols: tuple[str, ...] | Tokenizer | None) -> dict[str, str]:
    if symbols is None:
        return {}
    return {"tokenizer": symbols.content} if isinstance(symbols, Tokenizer) else {"characters": "".join(symbols)}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-export`. Returns 0, or 2 after one line on stderr that says what to change."""
    parser = argparse.ArgumentParser(
        "dni-export",
        description="Write the whole model of a run into one safetensors file, with the names of the unsplit model.",
        epilog="A new run begins with such a file: dni-train start_from=FILE.safetensors",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run")
    parser.add_argument("file", type=Path, metavar="FILE.safetensors", help="the file to write; it must not be there")
    parser.add_argument("--step", metavar="N|best|last", help="default: the best by validation if saved, else the last")
    asked = parser.parse_args(argv)
    try:
        with refusals_at_the_door():
            found = export(asked.run_dir, asked.file, asked.step)
    except DniError as error:
        print(f"dni-export: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"step {found.step} ({found.which}), {found.numbers:,} parameters: {found.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
