"""Export a trained model as one self-describing .onnx file, for inspection without torch.

python examples/export_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth --output_dir export

The file passes a gate before it gets its name: real images go the whole way through the checkpoint and through the
file, in batches of 1, 2 and 5, and must come to the same probabilities, masks and verdicts. With int8 and bf16, which
round more, temperature and limits are found anew on the validation images, and what changed is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dinov3.defect_cli import add_flags, from_namespace, make_parser
from dinov3.defect_deployment.config import ExportConfig
from dinov3.defect_errors import run_script
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_folder_kinds import expect_no_dataset
from dinov3.defect_folders import FolderLock


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = make_parser(ExportConfig, __doc__)
    add_flags(parser, Target)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export, and say what the gate found."""
    flags = build_parser().parse_args(argv)
    config, target = from_namespace(ExportConfig, flags), from_namespace(Target, flags)
    expect_no_dataset(config.output_dir, "--output_dir")
    from dinov3.defect_deployment.export import Export

    with FolderLock(config.output_dir, "export_defect_model.py", "--output_dir"):
        export = Export(config, target)
        record = export.run()
    gate = record["gate"]
    print(f"{export.path}: {export.path.stat().st_size / 1e6:.1f} MB, {config.precision}")
    print(
        f"  gate on {gate['images']} images by {config.engine} in fp32: class probabilities differ by at most "
        f"{gate['class_prob']:.1e}, mask probabilities by {gate['mask_prob']:.1e}; {gate['flips']} verdicts flip"
    )
    for line in record.get("lines", ()):
        print(f"  {line}")
    return 0


def console() -> None:
    """The command ``defect-export``."""
    run_script(main)
