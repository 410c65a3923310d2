"""Tensors in the smallest lossless file."""
