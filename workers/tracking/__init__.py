"""Record and show the progress of a run: records, terminal, TensorBoard, summary."""
