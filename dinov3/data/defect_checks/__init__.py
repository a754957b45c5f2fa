"""What is wrong with a dataset, and what is safe to repair."""
