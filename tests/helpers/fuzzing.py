"""Fuzz targets: small sources that are right, spoiled in every way that the strategies here know.

A target is a function of what was drawn that fails if something goes wrong. In the suite it gets a few dozen examples,
the same in every run; with ``FUZZ_MINUTES=5`` new ones for five minutes (``tests/fuzz/nightly.sh``). An example that
takes longer than ``SLOWEST``, or more than ``MEMORY`` beyond what the process has, fails.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MINUTES = float(os.environ.get("FUZZ_MINUTES", 0))
SLOWEST = 20_000  # milliseconds
MEMORY = 2 * 2**30  # bytes

Edits = list[tuple[Any, ...]]


def fuzz(target: Callable[..., object], *strategies: st.SearchStrategy, examples: int) -> None:
    """Give a target ``examples`` of the strategies, or as many as ``FUZZ_MINUTES`` allow."""
    end = time.monotonic() + 60 * MINUTES
    rules = settings(
        max_examples=1000 if MINUTES else examples,
        deadline=SLOWEST,
        derandomize=not MINUTES,
        suppress_health_check=list(HealthCheck),
    )
    run = rules(given(*strategies)(target))
    with limited_memory():
        run()
        while time.monotonic() < end:
            run()


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """On Linux, let this process have ``MEMORY`` more than it has, and no more."""
    try:
        import resource  # Windows has none

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# --- values of a JSON or YAML file

DEEP: Any = "deep"
for _ in range(40):
    DEEP = [DEEP]
JUNK = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 3, 0.5, 10**6, 2**31, 2**63, 10**30, 1e308, -1e-308, float("nan"), float("inf")),
        *("", " ", "x", "a.png", "../a.png", "/etc/passwd", "C:\\a.png", "a\0b", "\ud800", "é" * 200, "null", "1e999"),
        *([], {}, [[]], [{}], {"": None}, [None] * 3, [1, 2], [[0, 0], [5, 5], [0, 9]], DEEP, list(range(500))),
    ]
)
NUMBER = st.integers(0, 2**16)
TREE_EDITS = st.lists(
    st.tuples(st.sampled_from(["remove", "twice", "swap", "wrap", "key"]), NUMBER, NUMBER)
    | st.tuples(st.just("replace"), NUMBER, JUNK),
    min_size=1,
    max_size=3,
)


def edited_tree(tree: Any, edits: Edits) -> Any:
    """A copy of lists and tables within each other, with values removed, replaced, doubled, swapped or wrapped."""
    holder = [copy.deepcopy(tree)]
    for kind, place, value in edits:
        places = list(_places(holder))
        parent, key = places[place % len(places)]
        match kind:
            case "replace":
                parent[key] = copy.deepcopy(value)
            case "wrap":
                parent[key] = [parent[key]]
            case "swap":
                parent[key] = copy.deepcopy(_value(places[value % len(places)]))
            case "remove" if parent is not holder:
                del parent[key]
            case "twice" if isinstance(parent, list) and parent is not holder:
                parent.insert(key, copy.deepcopy(parent[key]))
            case "key" if isinstance(parent, dict):
                parent[f"{key}{value % 3 or ''} "] = parent.pop(key)
    return holder[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (list or table, index or key) in a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _value(place: tuple[Any, Any]) -> Any:
    return place[0][place[1]]


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


# --- bytes

INSERTED = [b"\0", b"\xff\xfe", b"\n", b'"', b",", b"-", b"1e999", b"99999999999999999999", b"NaN", b"[" * 20_000]
INSERTED += [b"{" * 50, b"&a *a", b"<!DOCTYPE x>", b"\xc4\xe3", b"\xf0\x9f", b"x" * 140_000, b" 0.5", b"\r\r\n"]
BYTE_EDITS = st.lists(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255))
    | st.tuples(st.just("insert"), st.floats(0, 1), st.sampled_from(INSERTED))
    | st.tuples(st.just("set"), st.floats(0, 1), st.binary(min_size=1, max_size=4))
    | st.tuples(st.sampled_from(["cut", "drop", "twice", "shuffle"]), st.floats(0, 1), st.floats(0, 1))
    | st.tuples(st.just("encode"), st.just(0.0), st.sampled_from(["utf-16", "utf-32", "gb18030", "utf-8-sig"])),
    min_size=1,
    max_size=3,
)


def edited_bytes(data: bytes, edits: Edits) -> bytes:
    """A file's content with bytes flipped, set, put in, cut off, dropped, doubled, or in another encoding."""
    for kind, where, value in edits:
        at = int(where * len(data))
        match kind:
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
            case "insert":
                data = data[:at] + value + data[at:]
            case "set":
                data = data[:at] + value + data[at + len(value) :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[at + int(value * 40) :]
            case "twice":
                data = data[:at] + data[at : at + int(value * 200)] + data[at:]
            case "shuffle":
                lines = data.splitlines(keepends=True)
                random.Random(where + value).shuffle(lines)
                data = b"".join(lines)
            case "encode":
                with contextlib.suppress(UnicodeError):
                    data = data.decode().encode(value)
    return data


# --- folders

NAMES = st.sampled_from(
    ["{stem} 2{suffix}", "{stem}{SUFFIX}", "{stem}", "{STEM}{suffix}", "{stem}.txt", "100%{suffix}"]
)
FILE_EDITS = st.lists(
    st.tuples(st.sampled_from(["remove", "empty", "pipe", "folder"]), NUMBER, st.none())
    | st.tuples(st.sampled_from(["rename", "copy"]), NUMBER, NAMES)
    | st.tuples(st.just("replace"), NUMBER, NUMBER)
    | st.tuples(st.just("bytes"), NUMBER, BYTE_EDITS),
    min_size=1,
    max_size=3,
)


def write_edited(folder: Path, files: dict[str, bytes], edits: Edits) -> Path:
    """Write a folder anew from {name: content}, with files removed, renamed within their folder, doubled, exchanged,
    or spoiled; or with pipes and folders in their place."""
    _clear(folder)
    files, odd = dict(files), {}
    for kind, place, value in edits:
        name = sorted(files)[place % len(files)]
        match kind:
            case "remove" if len(files) > 1:
                del files[name]
            case "empty":
                files[name] = b""
            case "pipe" | "folder":
                odd[name] = kind
            case "rename" | "copy":
                path = Path(name)
                new = value.format(
                    stem=path.stem, STEM=path.stem.upper(), suffix=path.suffix, SUFFIX=path.suffix.upper()
                )
                files[path.with_name(new).as_posix()] = files.pop(name) if kind == "rename" else files[name]
            case "replace":
                files[name] = files[sorted(files)[value % len(files)]]
            case "bytes":
                files[name] = edited_bytes(files[name], value)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if odd.get(name) == "pipe" and hasattr(os, "mkfifo"):
            os.mkfifo(path)
        elif name in odd:
            path.mkdir()
        else:
            path.write_bytes(data)
    return folder


def _clear(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True) if folder.exists() else ():
        path.rmdir() if path.is_dir() else path.unlink()
