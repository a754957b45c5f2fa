"""From sources to a dataset: splits, grouping, writing, appending."""
