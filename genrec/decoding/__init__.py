"""Prefix index and constrained beam search."""
