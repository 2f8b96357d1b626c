"""The figures of a running run at an HTTP port, as Prometheus reads them. Needs `pip install 'dni[prometheus]'`.

The newest record of every stage is kept; nothing is computed until the port is read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from dni.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Record = Mapping[str, Any]

PACKAGE = "prometheus_client"


class Figure(NamedTuple):
    """A metric with the labels `run` and `stage`, and the record that it comes from."""

    name: str
    text: str
    kind: str  #: of the record
    key: str  #: in the record
    counts: bool = False  #: it only grows, but for a run that is resumed from an earlier step


FIGURES = (
    Figure("dni_step", "Newest recorded step.", "train", "step"),
    Figure("dni_steps_per_second", "Steps per second since the record before.", "train", "steps_per_s"),
    Figure("dni_loss", "Training loss per label, in nats unless the run's loss has another unit.", "train", "loss"),
    Figure("dni_lateness_steps", "By how many steps the targets that were used were late.", "train", "staleness"),
    Figure("dni_dropped_targets", "Malformed targets that were dropped.", "train", "dropped_targets", True),
    Figure("dni_queue_frames", "Frames received and not yet taken.", "train", "queue"),
    Figure("dni_in_flight_frames", "Frames sent and not yet finished by the next stage.", "train", "in_flight"),
    Figure("dni_sent_bytes", "Bytes of tensors sent to other stages.", "train", "sent_bytes", True),
    Figure("dni_busy_ratio", "Share of the run's time that the stage was not blocked.", "train", "busy"),
    Figure("dni_waited_previous_ratio", "Share of time waited for the stage before.", "train", "waited_previous"),
    Figure("dni_waited_next_ratio", "Share of time waited for the stage after.", "train", "waited_next"),
    Figure("dni_validation_loss", "Validation loss, in the unit of dni_loss.", "valid", "loss"),
    Figure("dni_checkpoint_step", "Step of the newest checkpoint of the stage.", "checkpoint", "step"),
)


class Metrics:
    """Takes the records of all stages, and gives their newest figures. A collector of prometheus_client.

    `run`: the value of the label of that name.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self._newest: dict[tuple[str, int], Record] = {}  # by kind and stage
        self._lock = threading.Lock()

    def show(self, record: Record) -> None:
        """Take one record."""
        if "kind" in record:
            with self._lock:
                self._newest[record["kind"], record["stage"]] = record

    def close(self) -> None:
        """Do nothing: whoever opened the port closes it."""

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that some stage has a figure for."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            newest = sorted(self._newest.items())
        for figure in FIGURES:
            kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
            family = kind(figure.name, figure.text, labels=["run", "stage"])
            for (of, stage), record in newest:
                value = record.get(figure.key)
                if of == figure.kind and isinstance(value, int | float):
                    family.add_metric([self.run, str(stage)], value)
            if family.samples:
                yield family


def refuse_missing(port: int | None) -> None:
    """Raise ConfigError if a port is set and prometheus_client is not installed."""
    if port is not None and find_spec(PACKAGE) is None:
        raise ConfigError(
            f"tracking.prometheus_port={port} needs the package {PACKAGE}: pip install 'dni[prometheus]' (or set "
            "tracking.prometheus_port=null)"
        )


@contextmanager
def serving(run: str, port: int | None, address: str) -> Iterator[Metrics | None]:
    """Serve metrics at a port until the end of the block; without a port yield None. Raises ConfigError if it is
    taken."""
    if port is None:
        yield None
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry, metrics = CollectorRegistry(), Metrics(run)
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise ConfigError(
            f"tracking.prometheus_port={port}: cannot listen at {address}:{port}: {error.strerror or error}; name a "
            "free port (or set tracking.prometheus_port=null)"
        ) from error
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
