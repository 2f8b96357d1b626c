"""What a run shows and keeps while it goes on: records, terminal, TensorBoard, summary."""
