"""Other APIs' addresses and shapes, so that their clients can be used unchanged; all make ordinary jobs."""
