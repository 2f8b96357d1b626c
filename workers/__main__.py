"""`python -m workers` is `dni-train`."""

import os
import sys

# `python -m workers` puts the current folder first; its files must not be imported, unless it holds this package.
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False) and sys.path[0] == os.getcwd() != _HOME:
    del sys.path[0]

from workers.cli.commands import train

if __name__ == "__main__":
    train()
