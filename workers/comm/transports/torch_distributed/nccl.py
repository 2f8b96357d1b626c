"""Groups of two GPUs by NCCL."""

from __future__ import annotations

import os
import warnings
from typing import Any, cast

from torch.distributed import Store  # type: ignore[attr-defined]  # it has one

from workers.comm.network_interface import listen_towards
from workers.comm.transports.torch_distributed.device_pair import Group
from workers.comm.transports.torch_distributed.gloo import FOREVER


def nccl_group(store: Store, rank: int, host: str) -> Group:
    """One side of a group by NCCL. Needs a GPU, and a torch with NCCL."""
    from torch.distributed import ProcessGroupNCCL  # not every build of torch has it

    listen_towards(host)
    # Errors then come out where one waits. Else a thread of torch's looks for them, and ends the process.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    warnings.filterwarnings("ignore", message="An unbatched P2P op")  # it makes a communicator for the two: as wanted
    options: Any = ProcessGroupNCCL.Options()
    options._timeout = FOREVER  # a lost peer is gloo's to notice
    options.global_ranks_in_group, options.group_name = [0, 1], "dni"
    return cast(Group, ProcessGroupNCCL(store, rank, 2, options))  # whose stubs leave out send and recv
