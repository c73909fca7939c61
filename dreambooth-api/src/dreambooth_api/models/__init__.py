"""Models: which base models are known, what a trained model looks like on the disk, and where it is kept."""
