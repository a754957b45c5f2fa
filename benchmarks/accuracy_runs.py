"""The files in which finished runs of ``accuracy.py`` are kept: what anyone needs to make the tables again.

RUNS/DATA_grouped/SETTING/VARIANT/foldF_seedS.json, some 20 KB each: the setting, the code's digest and commit, machine
and date, the metrics, and a few numbers per image and per defect of validation and test. ``_flips`` or ``_novelty``
behind the seed: answers that came about that way.
"""

from __future__ import annotations

import ast
import datetime
import functools
import hashlib
import json
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_variants import VARIANTS

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.image_results import REGION

ROOT = Path(__file__).resolve().parents[1]
FORMAT = "accuracy run 1"
COUNTS = ("tp", "fp", "fn", "tn")
IMAGE = np.dtype(
    [("score", "f8"), ("label", "i4"), ("size", "i4", (2,)), ("peak", "f8"), *((name, "i8") for name in COUNTS)]
)
Run = dict[str, Any]


def pack(images: np.ndarray, regions: np.ndarray, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a run file keeps of one split, from ``ImageResults`` and the manifest's columns; parts become numbers."""
    parts = {name: number for number, name in enumerate(dict.fromkeys(columns["group"].tolist()))}
    kinds = sorted(set(columns["source"].tolist()))
    return {
        "kinds": kinds,
        "kind": [kinds.index(kind) for kind in columns["source"].tolist()],
        "part": [parts[name] for name in columns["group"].tolist()],
        "label": images["label"].tolist(),
        # Seven digits: the scores' order, on which AP depends, survives.
        "score": [float(f"{value:.7g}") for value in (1 - images["class_prob"][:, 0].astype(float)).tolist()],
        "peak": [float(f"{value:.7g}") for value in images["peak"].astype(float).tolist()],
        "size": images["size"].tolist() if len(np.unique(images["size"], axis=0)) > 1 else [images["size"][0].tolist()],
        **{name: images[name].tolist() for name in COUNTS},
        "regions": {
            "image": regions["image"].tolist(),
            "area": regions["area"].tolist(),
            "coverage": [round(value, 3) for value in regions["coverage"].tolist()],
        },
    }


def unpack(packed: dict[str, Any]) -> Run:
    """The arrays that the metrics read: ``images`` (N,), ``regions`` (M,), ``group`` (N,), ``source`` (N,)."""
    images = np.zeros(len(packed["label"]), IMAGE)
    for name in ("score", "label", "peak", "size", *COUNTS):
        images[name] = packed[name]
    regions = np.zeros(len(packed["regions"]["image"]), REGION)
    for name, values in packed["regions"].items():
        regions[name] = values
    kinds = np.array(packed["kinds"])
    return {
        "images": images,
        "regions": regions,
        "group": np.array(packed["part"]),
        "source": kinds[np.array(packed["kind"], int)],
    }


def write_run(path: Path, setting: dict[str, Any], seconds: float, content: dict[str, dict[str, Any]]) -> None:
    """Keep a finished run, with its splits as ``content``; the file appears whole or not at all."""
    whole = {
        "format": FORMAT,
        "setting": setting,
        "code": code_digest(setting["variant"]),
        "commit": _commit(),
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}",
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds),
        **content,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in whole.items()]
    unfinished.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    unfinished.replace(path)


def read_run(path: Path) -> dict[str, Any]:
    """The content of a run file.

    Raises:
        DefectError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DefectError(f"{path}: no run of accuracy.py ({error}); remove it and run it again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DefectError(f"{path}: no run of accuracy.py in the format {FORMAT!r}; remove it and run it again")
    return content


def expect_setting(path: Path, setting: dict[str, Any]) -> None:
    """
    Raises:
        DefectError: the finished run in ``path`` had another ``setting``.
    """
    other = read_run(path)["setting"]
    changed = [
        f"{name} was {other.get(name)}, now {value}" for name, value in setting.items() if other.get(name) != value
    ]
    if changed:
        raise DefectError(f"{path}: it had another setting ({'; '.join(changed)}); give another --runs")


@functools.cache
def code_digest(variant: str) -> str:
    """Of all code of this repository that a run of ``variant`` executes, without comments and docstrings."""
    peer = VARIANTS[variant].peer
    digest = hashlib.sha256(repr(replace(VARIANTS[variant], what="")).encode())
    for file in sorted((ROOT / "dinov3").rglob("*.py")):
        if _decides(file, bool(peer)):
            digest.update(file.relative_to(ROOT).as_posix().encode())
            digest.update(_statements(file).encode())
    digest.update(_statements(ROOT / "benchmarks/accuracy_models.py").encode())
    digest.update(_statements(ROOT / "benchmarks/accuracy_run.py").encode())
    return digest.hexdigest()[:12]


def _decides(file: Path, peer: bool) -> bool:
    """Whether it takes part in training and scoring: the network, its input, the loop, the optimizer, the metrics. A
    ``peer`` has a decoder and a class head of its own."""
    names = (
        *("models/", "train/", "data/defect_dataset", "data/defect_transforms", "data/defect_copy_paste"),
        *("data/defect_images", "data/defect_masks", "data/defect_resize"),
        *("defect_evaluation/evaluate", "defect_evaluation/image_results", "defect_evaluation/scoring"),
    )
    unrelated = (
        *("train/defect_run_", "train/defect_signals", "train/defect_memory", "models/defect_checkpoint"),
        *("models/defect_engines", "models/defect_facts", "models/defect_sliding_window", "models/defect_device"),
    )
    own = ("models/defect_decoder", "models/defect_classifier", "models/defect_guidance", "models/defect_novelty")
    path = file.relative_to(ROOT / "dinov3").as_posix()
    return path.startswith(names) and not path.startswith(unrelated) and not (peer and path.startswith(own))


def _statements(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _commit() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
