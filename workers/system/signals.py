"""Signals that end a run."""

from __future__ import annotations

import signal

#: Ctrl-C, the end of a job by its engine, and a closed terminal (not on every system).
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

#: Seconds in which a further SIGTERM is the same request: an engine signals all processes of a job, and a launcher
#: among them (torchrun) passes the signal on.
SAME_REQUEST_S = 10.0


def insists(number: int, since_s: float) -> bool:
    """Whether a signal that comes `since_s` seconds after the first one asks to end at once, without saving.

    Ctrl-C does, and a late SIGTERM. A closed terminal may send SIGHUP twice, and an engine SIGUSR2 with SIGTERM.
    """
    return number == signal.SIGINT or (number == signal.SIGTERM and since_s >= SAME_REQUEST_S)
