"""What the scripts in ``examples/`` and the console commands run: flags, and the order of the work."""
