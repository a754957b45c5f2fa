"""From a checkpoint to a file for the line: export, its gate, quantisation."""
