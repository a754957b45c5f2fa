"""From a checkpoint to one self-describing file that has passed its gate."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from dinov3.data.defect_files import list_images
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.defect_deployment.config import ExportConfig
from dinov3.defect_deployment.gate import Agreement, differing_facts, expect_exact
from dinov3.defect_deployment.graph import SelfContained, expect_plain, export_graph
from dinov3.defect_deployment.quantize import EXACT_SHARES, Reduction, quantize
from dinov3.defect_deployment.scoring import calibrated_facts, evenly, score, training_batches
from dinov3.defect_deployment.stored_target import target_for
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.scoring import read_split
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_text import decode_text, read_small
from dinov3.defect_yaml import LARGEST, load_yaml
from dinov3.inference.rules import Rules
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_engines import Engine, open_engine
from dinov3.models.defect_engines.onnx_file import read_facts
from dinov3.models.defect_engines.torch_engine import TorchEngine
from dinov3.models.defect_facts import METADATA_KEY, ModelFacts, fingerprint
from dinov3.models.defect_fuse_bn import fuse_batch_norms

ENGINES = {"onnxruntime": "onnx", "openvino": "openvino"}
LARGEST_FILE = 2_000_000_000  # bytes; one ONNX file holds 2 GiB
RECORD = "export.json"


class Export:
    """One export: the checkpoint, its facts and what the gate needs.

    Raises:
        DefectError: the checkpoint cannot be used, or flags contradict each other or it.
    """

    def __init__(self, config: ExportConfig, target: Target):
        if config.precision == "bf16" and config.engine != "openvino":
            raise DefectError("--precision bf16 is OpenVINO's; add --engine openvino")
        self.config, self.target = config, target
        self.content = load_checkpoint(config.checkpoint)
        facts = ModelFacts.of_checkpoint(self.content, fingerprint(config.checkpoint))
        self.facts = replace(facts, rules=_read_rules(config.rules, self.content["mask_classes"]))
        suffix = "" if config.precision == "fp32" else f".{config.precision}"
        self.path = config.output_dir / f"{config.checkpoint.stem}{suffix}.onnx"
        if self.path.exists():
            read_facts(self.path)  # replaced only if it is one of ours
        self.unfinished = [self.path.with_name(f".{self.path.stem}-{step}.onnx") for step in ("unfinished", "reduced")]
        if config.precision != "fp32":
            self.target = target_for(self.facts, target)

    def run(self) -> dict[str, Any]:
        """Write the file, and its record ``export.json``.

        Raises:
            DefectError: the model cannot be exported, or the file did not pass its gate; nothing is left of it.
        """
        images = self._gate_images()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        full, reduced = self.unfinished
        try:
            agreement = self._export_full(full, images)
            record = self._record(agreement)
            if self.config.precision == "fp32":
                self._finish(full, record)
            else:
                reduction = self._reduce(full, reduced)
                self._finish(reduced, record | {"changed": reduction.record()})
                record["lines"] = reduction.lines(self.config.precision)
        finally:
            for path in self.unfinished:
                path.unlink(missing_ok=True)
        return record

    def _export_full(self, path: Path, images: Sequence[Path]) -> Agreement:
        """The float32 file, past its gate."""
        size, source = self.facts.image_size, self.config.checkpoint
        model = restore_model(self.content, source, self.config.dinov3_repo)
        fuse_batch_norms(model, size)
        network = SelfContained(model, self.facts.mean, self.facts.std, self.facts.novelty).eval()
        _write(export_graph(network, size, str(source)), self.facts, path)
        del model, network
        # the reference has its norms as they were trained
        reference = TorchEngine(
            restore_model(self.content, source, self.config.dinov3_repo),
            self.facts,
            device="cpu",
            precision="off",
            threads=self.config.threads,
        )
        return expect_exact(reference, self._open(path), path, self.facts, images)

    def _reduce(self, full: Path, path: Path) -> Reduction:
        """The file of lower precision, calibrated anew, past its gate. Of int8, a form that keeps the layers next to
        the image in float32 is tried where the full one does not pass."""
        config, precision = self.config, self.config.precision
        rows, train = self._rows("val"), self._rows("train") if precision == "int8" else None
        before = score(self._open(full), rows, config.batch_size)
        for share in EXACT_SHARES if train is not None else (0.0,):
            if train is not None:
                batches = training_batches(train, self.facts, config.calibration_images, config.batch_size)
                quantize(full, path, batches, share)
            model = onnx.load(full if train is None else path)
            facts = replace(self.facts, precision=precision)
            _write(model, facts, path)
            expect_plain(model, path)
            after = score(self._open(path), rows, config.batch_size)
            calibrations = before.calibrated(self.target), after.calibrated(self.target)
            reduction = Reduction.of(before, after, calibrations, facts, share)
            if not (problems := reduction.problems()):
                break
        else:
            lines = [f"{self.path.name} did not pass the gate of {precision} and was deleted; use --precision fp32:"]
            raise DefectError("\n  ".join([*lines, *problems]))
        facts = calibrated_facts(facts, calibrations[1])
        _write(model, facts, path)
        if wrong := differing_facts(facts, self._open(path).facts):
            raise DefectError(f"{self.path.name}: its metadata hold another {', '.join(wrong)} than was written")
        return reduction

    def _open(self, path: Path) -> Engine:
        config = self.config
        return open_engine(path, ENGINES[config.engine], device=config.device, threads=config.threads)

    def _data_root(self) -> Path:
        recorded = self.content["config"].get("data_root")
        root = self.config.data_root or (Path(recorded) if recorded else None)
        if root is None or not root.is_dir():
            raise DefectError(
                f"--data_root: the checkpoint's dataset ({root or 'not named in it'}) is not here; give its folder"
            )
        return root

    def _rows(self, split: str) -> Manifest:
        return read_split(self.facts, self.config.checkpoint, self._data_root(), split)

    def _gate_images(self) -> list[Path]:
        if self.config.images is not None:
            paths = list(list_images(self.config.images))
        else:
            rows = read_manifest(self._data_root()).select("val")
            paths = [rows.root / name for name in rows.columns["image"].tolist()]
            if not paths:
                raise DefectError(f"{rows.root}: no images in the val split for the gate; give a folder with --images")
        return evenly(paths, self.config.gate_images)

    def _record(self, agreement: Agreement) -> dict[str, Any]:
        config = self.config
        return {
            "checkpoint": str(config.checkpoint),
            "fingerprint": self.facts.fingerprint,
            "file": self.path.name,
            "precision": config.precision,
            "engine": config.engine,
            "device": config.device,
            "gate": asdict(agreement),
        }

    def _finish(self, made: Path, record: dict[str, Any]) -> None:
        """Give the file its name."""
        text = json.dumps(record | {"bytes": made.stat().st_size}, indent=2, ensure_ascii=False)
        place = self.path.with_name(RECORD)
        unfinished = place.with_name(f".{RECORD}.unfinished")
        unfinished.write_text(text + "\n", encoding="utf-8")
        made.replace(self.path)
        unfinished.replace(place)


def _write(model: onnx.ModelProto, facts: ModelFacts, path: Path) -> None:
    """Write a graph with what it says of itself, down to the disk."""
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=facts.to_json())
    if (size := model.ByteSize()) > LARGEST_FILE:
        raise DefectError(f"{path.name}: {size / 1e9:.1f} GB; one ONNX file holds 2 GB; export a smaller backbone")
    with path.open("wb") as file:
        file.write(model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _read_rules(path: Path | None, mask_classes: Sequence[str]) -> dict[str, Any] | None:
    """The content of a rules file, which must be right for these mask classes."""
    if path is None:
        return None
    Rules.from_yaml(path, list(mask_classes))
    return load_yaml(decode_text(read_small(path, LARGEST)))[0]
