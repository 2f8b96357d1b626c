"""Signals that end a run."""

from __future__ import annotations

import signal

#: Ctrl-C, the end of a job by its engine, and a closed terminal (not on every system).
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

#: Signals that end a run at once when they come a second time. A closed terminal may send SIGHUP twice.
INSISTENT = (signal.SIGINT, signal.SIGTERM)
