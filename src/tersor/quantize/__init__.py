"""Few distinct values."""
