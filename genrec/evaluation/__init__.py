"""Metrics, the evaluator, comparisons of rankers and their tables."""
