"""The demo dataset: parts, surfaces and defects that are drawn."""
