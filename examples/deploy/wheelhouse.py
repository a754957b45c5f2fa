"""Downloads the wheels that a package needs on another machine, and proves that none is missing.

pip chooses wheels for a platform and a Python that are not its own, but decides by its own which requirements apply
(``colorama; sys_platform == "win32"``). Here, the requirements of each wheel are asked again for the target.
"""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from dinov3.defect_errors import DefectError

OLDEST, NEWEST = (3, 10), (3, 13)
SYSTEMS = {  # by the beginning of a platform's name: os_name, sys_platform, platform_system
    "manylinux": ("posix", "linux", "Linux"),
    "win": ("nt", "win32", "Windows"),
    "macosx": ("posix", "darwin", "Darwin"),
}


@dataclass(frozen=True)
class Target:
    """The machine to install on.

    Args:
        python: its version, such as ``3.11``.
        platform: its name in wheels, such as ``manylinux_2_28_x86_64`` or ``win_amd64``.

    Raises:
        DefectError: no such version, or a platform that is not understood.
    """

    python: str
    platform: str

    def __post_init__(self) -> None:
        numbers = re.fullmatch(r"(\d)\.(\d+)", self.python)
        if not numbers or not OLDEST <= (int(numbers[1]), int(numbers[2])) <= NEWEST:
            raise DefectError(f"--python {self.python}: expected 3.10 to 3.13, the Python of the machine to install on")
        if not re.fullmatch(
            r"(manylinux(2014|_2_\d+)_(x86_64|aarch64))|win_amd64|macosx_\d+_\d+_(arm64|x86_64)", self.platform
        ):
            raise DefectError(
                f"--platform {self.platform}: not known; expected manylinux_2_28_x86_64 (or another number, or "
                "aarch64), manylinux2014_x86_64, win_amd64 or macosx_14_0_arm64"
            )

    @property
    def platforms(self) -> list[str]:
        """Its name and, for Linux, those of all older C libraries, whose wheels run there, too."""
        found = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", self.platform)
        if not found:
            return [self.platform]
        older = [f"manylinux_2_{minor}_{found[2]}" for minor in range(int(found[1]), 16, -1)]
        return [*older, f"manylinux2014_{found[2]}"]

    @property
    def environment(self) -> dict[str, str]:
        """What requirements may depend on there."""
        names = next(names for start, names in SYSTEMS.items() if self.platform.startswith(start))
        machine = "AMD64" if self.platform == "win_amd64" else re.search(r"(x86_64|aarch64|arm64)$", self.platform)[0]
        there = dict(zip(("os_name", "sys_platform", "platform_system"), names, strict=True))
        there |= {"python_version": self.python, "python_full_version": f"{self.python}.0"}
        there |= {"platform_machine": machine, "implementation_name": "cpython"}
        return {**default_environment(), **there, "platform_python_implementation": "CPython"}


def download(folder: Path, project: Path, extras: Sequence[str], target: Target) -> None:
    """Fill ``folder`` with all wheels that the wheel ``project``, which lies there, needs with ``extras``.

    Raises:
        DefectError: pip could not get one, for want of a network or of a wheel for the target; its words are given.
    """
    _pip_download(folder, target, [f"{project}[{','.join(extras)}]"])
    while missing := find_missing(folder, project, extras, target):
        _pip_download(folder, target, missing, "--no-deps")


def find_missing(folder: Path, project: Path, extras: Sequence[str], target: Target) -> list[str]:
    """The requirements that apply on the target and that no wheel in ``folder`` meets; sorted."""
    wheels = {canonicalize_name(parse_wheel_filename(path.name)[0]): path for path in folder.glob("*.whl")}
    versions = {name: parse_wheel_filename(path.name)[1] for name, path in wheels.items()}
    missing, seen = set(), set()
    todo = [(canonicalize_name(parse_wheel_filename(project.name)[0]), extra) for extra in ("", *extras)]
    while todo:
        if (pair := todo.pop()) in seen:
            continue
        seen.add(pair)
        for text in requirements_of(wheels[pair[0]]):
            needed = Requirement(text)
            if needed.marker and not needed.marker.evaluate({**target.environment, "extra": pair[1]}):
                continue
            name = canonicalize_name(needed.name)
            if name in wheels and needed.specifier.contains(versions[name], prereleases=True):
                todo += [(name, extra) for extra in ("", *needed.extras)]
            else:
                missing.add(f"{needed.name}{needed.specifier}")
    return sorted(missing)


def requirements_of(wheel: Path) -> list[str]:
    """What a wheel says that it needs."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return email.message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []


def run_pip(*arguments: object) -> None:
    """Run pip.

    Raises:
        DefectError: it failed; its last words are given.
    """
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--disable-pip-version-check", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
        raise DefectError(
            f"pip {arguments[0]} failed: {' '.join(said[-2:])[:500]}\nIs there a network here (or a package index at "
            "PIP_INDEX_URL), and are there wheels for this --python and --platform?"
        )


def _pip_download(folder: Path, target: Target, requirements: Sequence[str], *flags: str) -> None:
    platforms = [word for name in target.platforms for word in ("--platform", name)]
    there = ["--only-binary=:all:", "--implementation", "cp", "--python-version", target.python, *platforms]
    run_pip("download", "--dest", folder, "--find-links", folder, *there, *flags, *requirements)
