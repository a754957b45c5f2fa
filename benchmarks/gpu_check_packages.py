"""Which packages this Python lacks, or has too old, for gpu_check.py.

Only the standard library here.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements-defect-detection.txt"


def normal(name: str) -> str:
    """A package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> list[int]:
    """``2.11.0+cu130`` as [2, 11, 0]."""
    return [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]


def least_versions() -> dict[str, str]:
    """The lower bounds of the requirements, by package."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?", line) for line in lines)
    return {normal(match[1]): match[2] or "" for match in found if match}


def is_missing(name: str) -> bool:
    """Whether a package is not there, or older than the requirements ask for."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    return numbers(version) < numbers(least_versions().get(normal(name), ""))


def missing_packages() -> list[str]:
    """What the requirements list and this Python lacks."""
    return [name for name in least_versions() if is_missing(name)]


def missing_wheels(folder: Path) -> list[Path]:
    """The wheels in ``folder`` whose package this Python lacks."""
    return [wheel for wheel in sorted(folder.resolve().glob("*.whl")) if is_missing(wheel.name.split("-")[0])]
