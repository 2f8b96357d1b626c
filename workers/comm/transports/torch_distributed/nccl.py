"""Process groups of two GPUs, with NCCL."""

from __future__ import annotations

import os
import warnings
from typing import Any, cast

from torch.distributed import Store  # type: ignore[attr-defined]  # it has one

from workers.comm.network_interface import listen_towards
from workers.comm.transports.torch_distributed.device_pair import Group
from workers.comm.transports.torch_distributed.gloo import FOREVER


def nccl_group(store: Store, rank: int, host: str) -> Group:
    """Make one side of an NCCL group. Needs a GPU and a build of torch with NCCL."""
    from torch.distributed import ProcessGroupNCCL  # not every build of torch has it

    listen_towards(host)
    # Raise errors in the waiting thread. Otherwise a watchdog thread of torch ends the process.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    warnings.filterwarnings("ignore", message="An unbatched P2P op")  # the extra communicator it warns of is wanted
    options: Any = ProcessGroupNCCL.Options()
    options._timeout = FOREVER  # gloo detects a lost peer
    options.global_ranks_in_group, options.group_name = [0, 1], "dni"
    return cast(Group, ProcessGroupNCCL(store, rank, 2, options))  # the stubs lack send and recv
