"""Training: loss, schedule, loop and checkpoints."""
