"""`dni-new NAME`: write a folder with a model, a method, an experiment file and a test, to begin a study with."""

from __future__ import annotations

import argparse
import json
import re
import sys
from importlib import resources
from pathlib import Path
from string import Template

#: The files of a study and their templates; NAME stands for the study's name.
FILES = {
    "README.md": "README.md.txt",
    "network.py": "network.py.txt",
    "method.py": "method.py.txt",
    "test_study.py": "test_study.py.txt",
    "conf/experiment/NAME.yaml": "experiment.yaml.txt",
    "conf/model/network.yaml": "model.yaml.txt",
    "conf/depth/sign.yaml": "depth.yaml.txt",
}


def main() -> int:
    """Write the folder and print what to type next; return 2 with one line if that is refused."""
    parser = argparse.ArgumentParser("dni-new", description=__doc__)
    parser.add_argument("folder", type=Path, help="the new folder, whose last part names the study")
    parser.add_argument("--text", type=Path, help="a UTF-8 text file to learn; default: the text of the package")
    asked = parser.parse_args()
    try:
        write(asked.folder, asked.text)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"dni-new: {error}\n")
        return 2
    print(f"cd {asked.folder}    # its README.md has the commands")
    return 0


def write(folder: Path, text: Path | None = None) -> None:
    """Write the files of a study.

    Raises ValueError for a name that is no Python name, a folder that has files, or a text that is missing; OSError if
    the folder cannot be written.
    """
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"{name} names the experiment: begin with a letter, then letters, digits and _ (my_study)")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} already exists and is not an empty folder: name another one")
    if text is not None and not text.exists():
        raise ValueError(f"--text {text} does not exist: name a UTF-8 file, or a folder of them")
    templates = resources.files(__package__) / "template"
    for place, template in FILES.items():
        path = folder / place.replace("NAME", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        filled = Template((templates / template).read_text(encoding="utf-8"))
        learned = "null" if text is None else json.dumps(str(text.resolve()))
        path.write_text(filled.safe_substitute(name=name, text=learned), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
