"""Use after training."""
