"""Reading YAML files that other people wrote: small, flat, each key once, and no part that refers to another."""

from __future__ import annotations

from typing import Any

import yaml

LARGEST = 2**20  # characters, and bytes of a file
DEEPEST = 20  # lists and tables within each other


def load_yaml(text: str) -> tuple[Any, list[str]]:
    """The content of a YAML text, and a line for each key that a table has twice (of which the last one counts).

    Aliases are refused: a text of 500 bytes can name its parts so often that building it takes hours or all memory.

    Raises:
        ValueError: not YAML, too large, nested more than ``DEEPEST`` deep, or with aliases; the text says which.
    """
    if len(text) > LARGEST:
        raise ValueError(f"{len(text) / 2**20:.0f} million characters; expected at most one")
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):  # nothing is built yet
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise ValueError(f"*{event.anchor} in line {line} refers to another part; write that part out")
            if depth > DEEPEST:
                raise ValueError(f"nested more than {DEEPEST} deep in line {event.start_mark.line + 1}")
        return yaml.safe_load(text), _repeated_keys(yaml.compose(text, yaml.SafeLoader))
    except Exception as error:  # PyYAML's constructors raise many types
        raise ValueError(" ".join(str(error).split())[:300]) from None


def _repeated_keys(node: yaml.Node | None) -> list[str]:
    found: list[str] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                found.append(f"{name}: given twice (line {key.start_mark.line + 1}); expected once")
            seen.add(name)
            found += _repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            found += _repeated_keys(value)
    return found
