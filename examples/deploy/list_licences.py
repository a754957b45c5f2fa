"""The licences of all packages that this project brings along, as a table in Markdown.

python examples/deploy/list_licences.py --into docs/DEPENDENCIES.md

Reads the metadata of what is installed where it runs. The table in the file, if given, is replaced.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "dinov3-defect-detection"
FOR_DEVELOPERS = {"dev", "browser", "peers"}  # extras that nothing of a user's needs
HEADER = "| package | licence | comes with |\n|---|---|---|\n"


def users_of(project: Distribution) -> dict[str, tuple[Distribution | None, set[str]]]:
    """Each package that the extras of ``project`` need, by name: what is installed (None: nothing), and the extras that
    bring it; ``always`` for those without an extra."""
    found: dict[str, tuple[Distribution | None, set[str]]] = {}
    for extra in ["", *(project.metadata.get_all("Provides-Extra") or [])]:
        if extra in FOR_DEVELOPERS:
            continue
        todo, seen = needs(project, extra), set()
        while todo:
            name, name_extra = pair = todo.pop()
            if pair in seen:
                continue
            seen.add(pair)
            try:
                package = distribution(name)
            except PackageNotFoundError:
                package = None
            found.setdefault(name, (package, set()))[1].add(extra or "always")
            if package is not None:
                todo += needs(package, name_extra)
    return found


def needs(package: Distribution, extra: str) -> list[tuple[str, str]]:
    """Name and extra of each package that one needs on this machine, if it is asked for ``extra``."""
    found = []
    for text in package.requires or []:
        needed = Requirement(text)
        here = needed.marker is None or needed.marker.evaluate({"extra": extra})
        if here and not (extra and package.name == PROJECT and "extra" not in str(needed.marker)):
            found += [(canonicalize_name(needed.name), more) for more in ("", *needed.extras)]
    return found


def licence_of(package: Distribution | None) -> str:
    """What its metadata say: the expression, else the short name, else the classifiers."""
    if package is None:
        return "not installed where this table was made"
    told = package.metadata
    short = (told.get("License") or "").strip().removeprefix("UNKNOWN").removeprefix("OSI Approved :: ")
    kinds = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    kinds = [kind for kind in kinds if kind != "OSI Approved"]
    text = told.get("License-Expression") or (short if short and len(short) < 60 and "\n" not in short else "")
    return text or "; ".join(kinds) or (short.splitlines() or ["not stated"])[0][:60]


def table_of(found: dict[str, tuple[Distribution | None, set[str]]]) -> str:
    """The rows, by name."""
    rows = []
    for name, (package, extras) in sorted(found.items()):
        extra = "always" if "always" in extras else ", ".join(f"`{extra}`" for extra in sorted(extras))
        rows.append(f"| {name} | {licence_of(package)} | {extra} |\n")
    return HEADER + "".join(rows)


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="Markdown file whose table is replaced")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write it into a file."""
    args = build_parser().parse_args(argv)
    try:
        table = table_of(users_of(distribution(PROJECT)))
    except PackageNotFoundError:
        print(f"error: {PROJECT} is not installed here; run: bash examples/make_environment.sh dev", file=sys.stderr)
        return 1
    if args.into is None:
        print(table, end="")
        return 0
    text = args.into.read_text(encoding="utf-8")
    start = text.find(HEADER)
    if start < 0:
        print(f"error: {args.into}: no table with the columns {HEADER.splitlines()[0]}", file=sys.stderr)
        return 1
    rest = re.sub(r"^(\|.*\n)+", "", text[start:])
    args.into.write_text(text[:start] + table + rest, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
