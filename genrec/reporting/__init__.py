"""Diagnosis and reports."""
