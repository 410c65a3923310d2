"""Data sets and reference models."""
