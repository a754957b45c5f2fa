"""Inspection as a service: images by HTTP, verdicts back, and on to sinks."""
