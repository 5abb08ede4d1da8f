"""Training: the loop, the run folder with its lock and checkpoints, interrupts."""
