"""`dni-grow`: a trained run with more layers, which computes the same until it is trained on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dni import __version__
from dni.errors import DniError
from workers.config.quoting import resume_command
from workers.growth.grow import Grown, grow
from workers.system.errors import refusals_at_the_door


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-grow`. Returns 0, or 2 after one line on stderr that says what to change."""
    parser = argparse.ArgumentParser(
        "dni-grow",
        description="Add layers to the model of a trained run. They begin as the identity, so the outputs stay as they "
        "are. Writes a new run folder, from which dni-train resume=FOLDER goes on.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the new run's folder; it must hold no run")
    parser.add_argument("words", nargs="*", metavar="model.NAME=VALUE", help="default: model.layers, as much larger")
    parser.add_argument("--after", required=True, metavar="LAYER[,LAYER]", help="the layers that new ones follow")
    parser.add_argument("--step", default="last", metavar="N|best|last", help="the checkpoint; default: the last")
    asked = parser.parse_intermixed_args(argv)
    try:
        with refusals_at_the_door():
            found = grow(asked.run_dir, asked.folder, asked.after.split(","), asked.words, asked.step)
    except DniError as error:
        print(f"dni-grow: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print("\n".join(_said(found)))
    return 0


def _said(found: Grown) -> Iterator[str]:
    for index, layers in enumerate(found.stages):
        marked = (f"{name} (new)" if name in found.new else name for name in layers)
        yield f"part {index}: {', '.join(marked)}"
    yield f"step {found.step}: outputs differ by at most {found.difference:.2g}: {found.folder}"
    yield f"train it further: {resume_command(found.folder)} steps=N, with N above {found.step}"


if __name__ == "__main__":
    sys.exit(main())
