"""YAML of other people: what is small and plain is read, what could cost hours or hides a mistake is refused."""

from __future__ import annotations

import time

import pytest

from dinov3.defect_yaml import load_yaml


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x 1\nb: *x\n", "line 2 refers to another part"),
        ("".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 12)), "refers to another part"),
        ("a: &a\n  b: *a\n", "refers to another part"),
        ("x: " + "{y: " * 4000, "nested more than 20 deep"),
        ("- " * 30 + "1", "nested more than 20 deep"),
        ("a: b: c", "mapping values are not allowed"),
        ("x: 2024-13-45", "month must be in"),
        ("a: '" + "y" * 2**20 + "'", "million characters"),
    ],
)
def test_costly_and_broken_texts_are_refused_at_once(text: str, reason: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=reason):
        load_yaml(text)
    assert time.perf_counter() - start < 2


def test_keys_given_twice_are_named_with_their_line() -> None:
    content, twice = load_yaml("a: 1\nb:\n  - c: 1\n    c: 2\na: 3\n")
    assert content == {"a": 3, "b": [{"c": 2}]}
    assert sorted(twice) == [
        "a: given twice (line 5); expected once",
        "c: given twice (line 4); expected once",
    ]
