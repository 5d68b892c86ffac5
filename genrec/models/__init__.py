"""The RQ-VAE, the retrieval model and the baseline."""
