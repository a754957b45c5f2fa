"""The command ``defect-train``, from a checkout of the repository: see ``dinov3/defect_commands/train.py``."""

import _bootstrap  # noqa: F401  puts the repository first on sys.path

from dinov3.defect_commands.train import console, main

__all__ = ["main"]

if __name__ == "__main__":
    console()
