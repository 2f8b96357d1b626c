"""The pipelined baselines: the schedules of torch.distributed.pipelining, on the same data and records."""
