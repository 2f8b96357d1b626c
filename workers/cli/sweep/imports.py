"""Imports what a run and its stages need, also what they import late, before the server of a sweep forks them.

The garbage collector of a process that imports this module leaves out all objects so far: their pages stay shared.
"""

from __future__ import annotations

import gc
import signal

from workers.system.imports import import_for_good

#: In this order. The last ones are imported late elsewhere, because they are slow.
MODULES = (
    "workers.cli.sweep.run_process",
    "workers.launch.stage_main",
    "workers.runtime.pipeline.worker",
    "torch._dynamo",  # by the first `torch.manual_seed`
    "torch.utils.tensorboard",
    "tensorboard.compat.tensorflow_stub.io.gfile",
    "tensorboard.plugins.hparams.error",
    "tensorboard.plugins.hparams.metadata",
    "fsspec",
)


def import_all() -> None:
    """Import everything, and find out what is the same for every run. Ctrl-C does not break it off."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import_for_good(*MODULES)
        from workers.build.provenance import commit_of
        from workers.config.catalogue import entries
        from workers.config.convert import from_any
        from workers.config.settings import Config
        from workers.storage.versions import versions

        list(entries(Config))  # imports the classes of all settings
        from_any({})
        commit_of()
        versions()
        gc.freeze()
    finally:
        signal.signal(signal.SIGINT, before)


import_all()
