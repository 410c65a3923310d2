"""Weights that are shared: hashed buckets, tied tensors, templates, mixture priors."""
