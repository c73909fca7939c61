"""What a job is, and how it gets from one status to the next."""
