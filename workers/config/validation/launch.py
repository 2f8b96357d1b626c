"""Rules for the launch and the links of stages."""

from __future__ import annotations

from dni.errors import ConfigError
from dni.models.base import SplitKind
from workers.comm.address import consent, is_loopback
from workers.comm.transports.base import AUTO
from workers.config.schema import LaunchMode
from workers.config.settings import Config


def check_launch(config: Config) -> None:
    """Refuse settings that another way of launching needs. Raises ConfigError."""
    if config.launch.restarts and (config.threads or config.launch.mode is LaunchMode.external):
        why = "threads end together with their process" if config.threads else "the engine starts the stages"
        raise ConfigError(
            f"launch.restarts={config.launch.restarts}: {why}: set launch.restarts=0 (or launch=processes "
            "transport=grpc)"
        )
    if config.launch.mode is LaunchMode.external:
        _refuse_own_measurements(config)
        return
    if config.run_id is not None:
        raise ConfigError(
            f"run_id={config.run_id} names the run folder of stages started by an engine: use launch=external, or "
            f"hydra.run.dir=outputs/{config.run_id} instead"
        )
    if config.transport.peers:
        raise ConfigError(
            "transport.peers is for stages started by an engine: use launch=external (or transport.peers=[])"
        )


def _refuse_own_measurements(config: Config) -> None:
    if config.model.split is SplitKind.measured and not config.model.split_points:
        raise ConfigError(
            "model.split=measured would measure in every process that an engine has started, and each would cut "
            "elsewhere: measure once, with dni-plan and these settings, and set model.split=parameters "
            "model.split_points=[...] as it says"
        )


def check_links(config: Config) -> None:
    """Refuse bind and peer addresses that cannot work, or that expose unencrypted links. Raises ConfigError."""
    if config.transport.peers:
        _check_peers(config)
    if config.transport.bind != AUTO:
        _check_bind(config)


def _check_peers(config: Config) -> None:
    peers = config.transport.peers
    if len(peers) != config.stages:
        raise ConfigError(
            f"transport.peers names {len(peers)} addresses for {config.stages} stages: name HOST:PORT of each"
        )
    for peer in peers:
        host, _, port = peer.rpartition(":")
        if not host or not port.isdecimal() or not int(port):
            raise ConfigError(f"transport.peers: {peer} is not HOST:PORT with a port above 0")
        if not (is_loopback(host) or config.transport.private):
            raise ConfigError(
                f"transport.peers: {peer} is not a loopback address, and links are neither encrypted nor "
                f"authenticated: {consent(config.can_encrypt)}"
            )


def _check_bind(config: Config) -> None:
    bind = config.transport.bind
    host, _, port = bind.rpartition(":")
    if not port.isdecimal() or not (is_loopback(host) or config.transport.private):
        raise ConfigError(
            f"transport.bind={bind} is not a loopback address with a port, and links are neither encrypted nor "
            f"authenticated: use transport.bind=auto, or 127.0.0.1:0; elsewhere {consent(config.can_encrypt)}"
        )
    if int(port) and config.stages > 2 and config.launch.mode is not LaunchMode.external:
        raise ConfigError(
            f"transport.bind={bind}: {config.stages - 1} of the {config.stages} stages listen and cannot share a port: "
            f"use transport.bind={host}:0"
        )
