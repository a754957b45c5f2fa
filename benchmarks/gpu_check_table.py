"""The report of gpu_check.py as rows of RESULTS.md, and RESULTS.md with them filled in.

Only the standard library here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gpu_check_figures import Row, list_rows

BLANK = "not measured"


@dataclass
class Table:
    """A table of a Markdown text: its place in the lines, and the heading above it."""

    heading: str
    first: int  # line of its header
    end: int  # line after its last row

    def cells(self, lines: list[str], number: int) -> list[str]:
        """Of line ``number``."""
        return [cell.strip() for cell in lines[number].strip().strip("|").split("|")]


def tables(lines: list[str]) -> Iterator[Table]:
    """The tables of a text."""
    heading, number, fenced = "", 0, False
    while number < len(lines):
        line = lines[number]
        fenced ^= line.lstrip().startswith("```")
        if not fenced and line.startswith("#"):
            heading = line.lstrip("# ").strip()
        if not fenced and line.startswith("|") and re.match(r"\|[\s|:-]+\|$", "".join(lines[number + 1 : number + 2])):
            end = number
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            yield Table(heading, number, end)
            number = end
        else:
            number += 1


def plain(text: str) -> str:
    """``text`` as it is compared: no case, no remarks in brackets, no marks."""
    return " ".join(re.sub(r"\([^)]*\)|[*`,:]", " ", text).lower().split())


def fill(text: str, report: dict[str, Any], again: bool = False) -> tuple[str, list[str]]:
    """Put the figures of ``report`` into the tables of ``text``, in cells that say 'not measured' or nothing.

    Args:
        again: replace what was measured before, too.

    Returns:
        The text, in which a line below each filled table says GPU, driver, torch and date; and notes, a line each: what
        was filled, what has no figures, and figures that found no row.
    """
    lines, notes, filled = text.splitlines(), [], set()
    todo = {(plain(row.section), plain(row.label)): row for row in list_rows(report)}
    for table in list(tables(lines)):
        header = table.cells(lines, table.first)
        for number in range(table.first + 2, table.end):
            cells = table.cells(lines, number)
            row = todo.pop((plain(table.heading), plain(cells[0])), None)
            if row is None:
                continue
            count, kept, unknown = put(row, header, cells, again)
            lines[number] = "| " + " | ".join(cells) + " |"
            if count:
                filled.add(table.end)
            notes.append(f"{row.label}: {count} filled" + f", {kept} had a figure already" * (kept > 0))
            notes += [f"{row.label}: nothing for the column {name!r}" for name in unknown]
    notes += [f"no row {row.label!r} under {row.section!r}" for row in todo.values() if any(row.cells.values())]
    for end in sorted(filled, reverse=True):
        if origin(report) not in lines[end : end + 4]:
            lines[end:end] = ["", origin(report)]
    return "\n".join(lines) + "\n", notes


def put(row: Row, header: list[str], cells: list[str], again: bool) -> tuple[int, int, list[str]]:
    """Put the figures of ``row`` into ``cells``: how many, how many were there already, and the columns that are not
    known."""
    count, kept, unknown = 0, 0, []
    for place, (name, cell) in enumerate(zip(header[1:], cells[1:], strict=False), start=1):
        found = [value for pattern, value in row.cells.items() if re.search(pattern, plain(name))]
        if not found and cell == BLANK:
            unknown.append(name)
        if not found or not found[0]:
            continue
        if cell in (BLANK, "") or again:
            cells[place] = found[0]
            count += 1
        elif cell != found[0]:
            kept += 1
    return count, kept, unknown


def origin(report: dict[str, Any]) -> str:
    """Where the figures come from, as one line."""
    machine = report["machine"]
    gpu = f"GPU: {machine['gpu']}" if machine.get("gpu") else "CPU"
    driver = f", driver {machine['driver']}" if machine.get("driver") else ""
    return f"{gpu}{driver}, {machine.get('cores', '?')} cores, torch {machine.get('torch', '?')}, {report['date']}."


def summary(text: str, report: dict[str, Any]) -> str:
    """The rows of ``text`` that the report filled, under their headings."""
    lines, pieces = text.splitlines(), []
    known = {(plain(row.section), plain(row.label)) for row in list_rows(report) if any(row.cells.values())}
    for table in tables(lines):
        rows = range(table.first + 2, table.end)
        rows = [lines[n] for n in rows if (plain(table.heading), plain(table.cells(lines, n)[0])) in known]
        if rows:
            pieces.append("\n".join([f"## {table.heading}\n", *lines[table.first : table.first + 2], *rows]))
    return "\n\n".join([*pieces, origin(report)]) + "\n"


def status_table(report: dict[str, Any]) -> str:
    """What became of each part."""
    lines = [f"## Parts, {report['seconds']:.0f} s of {report['minutes']:g} minutes\n"]
    lines += ["| part | | seconds | |", "|---|---|---|---|"]
    for row in report["parts"]:
        error = row["error"].replace("|", "/").splitlines()
        text = f"{error[0]}: {error[-1]}" if len(error) > 1 else "".join(error)
        lines.append(f"| {row['name']} | {row['status']} | {row['seconds']:.0f} | {text[:160]} |")
    return "\n".join(lines) + "\n"
