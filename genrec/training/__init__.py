"""The training loop and the two gin roots."""
