"""What is simulated: stages, links, and how much may be under way. Seconds and bytes throughout."""

from __future__ import annotations

from dataclasses import dataclass

from dni.errors import ConfigError

#: Most stage-steps of one simulation, a guard against a slip of the keyboard.
MOST = 50_000_000


@dataclass(frozen=True)
class Scenario:
    """K stages in a row, joined by links that are all alike.

    Args:
        forward_s, backward_s: time of a whole batch on each stage, (K,).
        update_s: time of one update of what is at a cut: a predictor, or a local head. The last stage has none.
        overhead_s: time a stage spends on every frame that it sends, and on every frame that it receives.
        delay_s: one-way delay of a link.
        bytes_per_s: of each direction of a link, one frame after the other; None: no limit.
        activation_bytes, gradient_bytes: of a whole batch at a cut. An acknowledgement alone has none.
        cut_bytes: of the activation, and of the gradient, of a whole batch at each cut, (K-1,), in the place of the two
            sizes above; empty: all cuts are alike.
        window: W, most unfinished frames on an edge; `delayed` shares it among the edges.
        batch: examples of a batch.
        microbatches: M, equal parts of a batch in a synchronous pipeline; None: the fastest divisor of `batch`.
        chunks: parts of the model on each stage of `interleaved_1f1b`.
        jitter: standard deviation of the logarithm of a time; its mean stays what it is.
        mtbf_s: mean time between the failures of one stage; None: there are none.
        recovery_s: how long a failure lasts.
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
        """K."""
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
    """Raise ConfigError, naming the option of the command line, for what cannot be simulated."""
    s = scenario
    if s.stages < 2:
        raise ConfigError(f"--stages {s.stages}: give 2 or more, one stage has nobody to wait for")
    if min(f + b for f, b in zip(s.forward_s, s.backward_s, strict=True)) <= 0:
        raise ConfigError("--forward-ms and --backward-ms are both 0 for a stage: give at least one of them a time")
    if s.microbatches and s.batch % s.microbatches:
        raise ConfigError(f"--microbatches {s.microbatches} does not divide --batch {s.batch}: parts must be equal")
    if s.steps < 4:
        raise ConfigError(f"--steps {s.steps}: give 4 or more, the first half only fills the pipeline")
    if s.steps * s.stages > MOST:
        raise ConfigError(f"--steps {s.steps} of {s.stages} stages are too many: give at most {MOST // s.stages}")
