"""From verdicts to better models: what came in, whether it changed, what to label next."""
