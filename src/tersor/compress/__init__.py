"""From a recipe to a file and a report."""
