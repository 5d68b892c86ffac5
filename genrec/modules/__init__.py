"""Layers and kernels: torch only."""
