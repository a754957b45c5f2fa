"""From a trained model to results: predictions, output files, pictures."""
