"""Which weights go, how many, and when."""
