"""The command ``defect-archive``, from a checkout of the repository: see ``dinov3/defect_commands/archive.py``."""

import _bootstrap  # noqa: F401  puts the repository first on sys.path

from dinov3.defect_commands.archive import build_parser, console, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    console()
