"""What the tests of the documents read from Markdown: links, anchors, commands and tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import unquote

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def read(path: Path) -> str:
    """The text of a document."""
    return path.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The text without blocks of code and without inline code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def without_code(text: str) -> str:
    """The text, and blocks of output, without commands, programs and inline code."""
    text = FENCE.sub(lambda block: "" if block[2] else block[3], text)
    return re.sub(r"`[^`\n]+`", "", text)


def inline_code(text: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a document, Chinese ones too: the text that is seen, in small
    letters, without punctuation, hyphens for blanks; a second heading of the same name gets ``-1``."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", text), re.MULTILINE):
        seen = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", seen.lower()).replace(" ", "-")
        found.add(next(a for a in (name, *(f"{name}-{i}" for i in range(1, 100))) if a not in found))
    return found


def broken_links(path: Path) -> list[str]:
    """The relative links of a document that lead nowhere."""
    text, broken = read(path), []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = path.parent / name if name else path
        if not file.exists() or anchor and anchor not in anchors(read(file)):
            broken.append(target)
    return broken


def commands(text: str) -> list[list[str]]:
    """The words of each command without comments: in blocks of ``bash``, and inline code that starts like one."""
    blocks = "\n".join(block for _, language, block in FENCE.findall(text) if language == "bash")
    lines = blocks.replace("\\\n", " ").splitlines() + inline_code(text)
    found = []
    for line in lines:
        line = re.sub(r"( +[12]?>\S* *\S+)?( +&)? *$", "", line)  # where its output goes
        if re.match(r"(\w+=\S* +)*(python|torchrun|sbatch|bash) ", line.strip()):
            found.append(shlex.split(line, comments=True))
    return found


def tables(text: str) -> list[dict[str, dict[str, str]]]:
    """Every table as row name (first cell) to column name to cell, without bold marks and full-width brackets."""
    text = text.replace("**", "").replace("（", " (").replace("）", ")")
    found = []
    for block in re.findall(r"(?:^ *\|.*\n)+", text + "\n", re.MULTILINE):
        header, _, *rows = [
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()
        ]
        found.append({row[0]: dict(zip(header, row, strict=False)) for row in rows})
    return found


def table_with(text: str, *columns: str) -> dict[str, dict[str, str]]:
    """The first table that has these columns."""
    for table in tables(text):
        if any(set(columns) <= set(row) for row in table.values()):
            return table
    raise AssertionError(f"no table with the columns {columns}")
