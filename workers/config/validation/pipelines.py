"""The rules of methods that split a batch into microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dni.errors import ConfigError
from workers.config.schema import AUTO, CHUNKED, DepthMethod, TimeMethod
from workers.config.settings import Config
from workers.config.validation.images import IMAGE_MODELS


def check_pipelines(config: Config) -> None:
    """Refuse what torch's pipelines cannot do, or what only they can. Raises ConfigError."""
    depth, name = config.depth, f"depth={config.depth.method.name}"
    if depth.chunks != 2 and depth.method not in CHUNKED:
        raise ConfigError(
            f"depth.chunks={depth.chunks} is for stages that hold several parts of the model, and with {name} each "
            "holds one: use depth=interleaved_1f1b or depth=zero_bubble (or depth.chunks=2)"
        )
    if config.pipelined:
        _check_method(config, name)
        _check_elsewhere(config, name)
        _check_microbatches(config, name)
    elif depth.microbatches is not None:
        raise ConfigError(
            f"depth.microbatches={depth.microbatches}: {name} takes a batch as a whole: use depth=gpipe, say (or "
            "depth.microbatches=null)"
        )


def check_devices(config: Config, devices: Sequence[str]) -> None:
    """Refuse stages that no one backend of torch can join. Raises ConfigError."""
    gpus = [device for device in devices if device.startswith("cuda")]
    if config.pipelined and gpus and (len(gpus) < len(devices) or len({*gpus}) < len(gpus)):
        raise ConfigError(
            f"depth={config.depth.method.name} needs a GPU of its own for every stage, or none at all, not "
            f"devices=[{','.join(devices)}]: set devices=[cpu], say"
        )


def _check_method(config: Config, name: str) -> None:
    if config.stages == 1:
        raise ConfigError(f"{name} needs two stages or more, and stages=1: set stages=2, say (or depth=backprop)")
    if config.time.method not in (TimeMethod.truncated, TimeMethod.full):
        raise ConfigError(
            f"{name} takes no gradient of a carried state, which time={config.time.method.name} would give: use "
            "time=truncated or time=full"
        )
    if config.threads:
        raise ConfigError(
            f"{name} joins processes, by torch's process group, and transport={config.transport.kind.name} "
            f"launch={config.launch.mode.name} are threads: use transport=grpc launch=processes"
        )


def _check_elsewhere(config: Config, name: str) -> None:
    """Settings of other methods, and of links that are not used."""
    depth, transport = config.depth, config.transport
    needed: dict[str, tuple[Any, Any]] = {
        "depth.lag": (depth.lag, None),
        "optimizer.accumulate": (config.optimizer.accumulate, 1),
        "evaluate.probe": (config.evaluate.probe, None),
        "transport.delay_ms": (transport.delay_ms, 0.0),  # the network itself would have to be slow
        "transport.bind": (transport.bind, AUTO),
        "transport.peers": (transport.peers, []),
        "transport.checksum": (transport.checksum, False),
        "transport.tls.cert": (transport.tls.cert, None),
        "transport.backend": (transport.backend.name, "gloo"),
    }
    for key, (asked, plain) in needed.items():
        if asked != plain:
            said, wanted = (
                "null" if value is None else str(value).lower() if isinstance(value, bool) else value
                for value in (asked, plain)
            )
            raise ConfigError(
                f"{key}={said} does nothing for {name}, which runs in torch's pipeline: set {key}={wanted}"
            )


def _check_microbatches(config: Config, name: str) -> None:
    batch, count, stages = config.data.batch, config.microbatches, config.stages
    asked = f"depth.microbatches={config.depth.microbatches or f'null, which is {count},'}"
    if batch % count:
        raise ConfigError(
            f"{asked} does not divide data.batch={batch} into equal parts: set "
            f"data.batch={-(-batch // count) * count}, say"
        )
    if config.model.kind in IMAGE_MODELS and batch == count:
        raise ConfigError(
            f"{asked} leaves one example in each, and model={config.model.kind.name} has batch norm: set "
            f"data.batch={2 * count} or more"
        )
    if config.depth.method is DepthMethod["1f1b"] and count < stages:
        raise ConfigError(
            f"{asked} are fewer than the {stages} stages of {name}: set depth.microbatches={stages} or more (or use "
            "depth=gpipe)"
        )
    if config.depth.method is DepthMethod["interleaved_1f1b"] and config.depth.chunks == 1:
        raise ConfigError("depth.chunks=1 leaves depth=interleaved_1f1b nothing to interleave: use depth=1f1b")
    if config.depth.method in CHUNKED and count % max(1, count // stages):
        raise ConfigError(
            f"{asked} cannot be dealt out evenly in rounds of {stages} stages or more: set "
            f"depth.microbatches={count // stages * stages}, say"
        )
