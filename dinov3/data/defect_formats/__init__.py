"""Annotations of other tools, read into one kind of source."""
