"""The scenario of a simulation: stages, links, frames in flight. Times in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from dni.errors import ConfigError

#: Most stage-steps of one simulation, a guard against typing errors.
MOST = 50_000_000


@dataclass(frozen=True)
class Scenario:
    """K stages in a row, joined by equal links.

    Args:
        forward_s, backward_s: time of a whole batch on each stage, (K,)
        update_s: time of one update of a predictor or local head, (K,); the last stage has none
        overhead_s: time of a stage for every frame that it sends or receives
        delay_s: one-way delay of a link
        bytes_per_s: bandwidth of each direction of a link; None: no limit
        activation_bytes, gradient_bytes: size of a whole batch at a cut; an acknowledgement has size 0
        cut_bytes: size of a whole batch's activation, and of its gradient, at each cut, (K-1,), instead of the two
            sizes above; empty: all cuts are alike
        window: W, most frames in flight on an edge; `delayed` shares it among the edges
        batch: examples of a batch
        microbatches: M, equal parts of a batch in a synchronous pipeline; None: the fastest divisor of `batch`
        chunks: virtual stages per stage of `interleaved_1f1b`
        steps: steps to simulate
        jitter: standard deviation of the logarithm of a time; the mean is unchanged
        mtbf_s: mean time between the failures of one stage; None: no failures
        recovery_s: duration of a failure
        seed: seed of jitter and failures
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    update_s: tuple[float, ...]
    overhead_s: float = 0.0
    delay_s: float = 0.0
    bytes_per_s: float | None = None
    activation_bytes: int = 65536
    gradient_bytes: int = 65536
    cut_bytes: tuple[int, ...] = ()
    window: int = 8
    batch: int = 32
    microbatches: int | None = None
    chunks: int = 2
    steps: int = 2000
    jitter: float = 0.0
    mtbf_s: float | None = None
    recovery_s: float = 60.0
    seed: int = 0

    @property
    def stages(self) -> int:
        """K, the number of stages."""
        return len(self.forward_s)

    def activation_at(self, cut: int) -> int:
        """Bytes of a batch's activation at the cut after this stage; around the ring after the last one as elsewhere at
        most."""
        return self._at(cut, self.activation_bytes)

    def gradient_at(self, cut: int) -> int:
        """As `activation_at`, of the gradient."""
        return self._at(cut, self.gradient_bytes)

    def _at(self, cut: int, otherwise: int) -> int:
        if not self.cut_bytes:
            return otherwise
        return self.cut_bytes[cut] if cut < len(self.cut_bytes) else max(self.cut_bytes)

    @property
    def random(self) -> bool:
        """Whether one step may differ from the next."""
        return self.jitter > 0 or self.mtbf_s is not None


def check(scenario: Scenario) -> None:
    """Raise ConfigError, naming the option of the command line, for a scenario that cannot be simulated."""
    s = scenario
    if s.stages < 2:
        raise ConfigError(f"--stages {s.stages}: give 2 or more: a single stage has no links")
    if min(f + b for f, b in zip(s.forward_s, s.backward_s, strict=True)) <= 0:
        raise ConfigError(
            "--forward-ms and --backward-ms are both 0 for a stage: give a positive time for at least one"
        )
    if s.microbatches and s.batch % s.microbatches:
        raise ConfigError(f"--microbatches {s.microbatches} does not divide --batch {s.batch}: parts must be equal")
    if s.steps < 4:
        raise ConfigError(f"--steps {s.steps}: give 4 or more, the first half only fills the pipeline")
    if s.steps * s.stages > MOST:
        raise ConfigError(f"--steps {s.steps} of {s.stages} stages is too much: give at most {MOST // s.stages}")
