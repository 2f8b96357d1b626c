"""Links over torch.distributed: gloo, and NCCL between GPUs."""
