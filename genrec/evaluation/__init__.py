"""Metrics, the evaluator and the baselines."""
