"""Start the stages: threads, processes, or one stage of a cluster's job."""
