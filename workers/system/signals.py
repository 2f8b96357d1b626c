"""What tells a run to end."""

from __future__ import annotations

import signal

#: Ctrl-C, an engine that ends a job, and a terminal that is closed; not every system has the last.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

#: Those of which a second one ends a run at once. A closed terminal may tell the same process twice.
INSISTENT = (signal.SIGINT, signal.SIGTERM)
