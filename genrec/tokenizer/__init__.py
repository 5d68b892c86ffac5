"""Semantic IDs."""
