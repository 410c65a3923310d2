"""What every room uses: weights by name, masks, seeds, errors, reports, safe files."""
