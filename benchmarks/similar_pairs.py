"""How well near-duplicates are found where the parts are known: pairs and groups against a table of groups.

python benchmarks/similar_pairs.py --images $MAGNETIC_TILE_DIR --group_csv $MAGNETIC_TILE_DIR/groups.csv
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov3.data.defect_files import list_images  # noqa: E402
from dinov3.data.defect_formats.pairing import tell_masks  # noqa: E402
from dinov3.data.defect_prepare.near_duplicates import (  # noqa: E402
    SAME,
    SAME_IN_A_ROW,
    capture_neighbors,
    correlate,
    describe,
    pair_codes,
    usual_scores,
)
from dinov3.data.defect_prepare.splits import find_group, join, read_groups  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--group_csv", type=Path, required=True, help="columns image,group: which show one part")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = build_parser().parse_args(argv)
    paths, _ = tell_masks(list_images(args.images))
    table = read_groups(args.group_csv)
    listed = [find_group(path.absolute(), table) for path in paths]
    if not any(listed):
        raise DefectError(f"{args.group_csv}: none of its images is in {args.images}")
    names = [path.relative_to(args.images).as_posix() for path in paths]
    codes, _ = describe(paths)
    found = pair_codes(codes, names)
    parts = np.unique([group or name for group, name in zip(listed, names, strict=True)], return_inverse=True)[1]
    rows = np.arange(len(paths))
    pairs = np.stack(np.triu_indices(len(paths), 1), 1)
    same = parts[pairs[:, 0]] == parts[pairs[:, 1]]
    groups = np.array(join(len(paths), found))
    together = groups[pairs[:, 0]] == groups[pairs[:, 1]]
    print(f"{len(rows)} images; groups: {len(set(groups))} found, {len(set(parts))} listed")
    print(f"largest group found: {max(Counter(groups.tolist()).values())} images")
    print(f"listed pairs that are in one group: {int((same & together).sum())} of {int(same.sum())}")
    missing = sorted({str(listed[a]) for a, _ in pairs[same & ~together]})
    print(f"the others are of: {', '.join(missing) or 'none'}")
    print(f"pairs found: {len(found)}, of which not listed: {sum(parts[a] != parts[b] for a, b in found)}")
    usual = usual_scores(codes, [str(Path(name).parent) for name in names])

    def percentiles(chosen: np.ndarray, *shares: float) -> str:
        base = usual[chosen].max(axis=1)
        scores = (correlate(codes, chosen) - base) / (1 - base)
        return ", ".join(f"{value:.2f}" for value in np.percentile(scores, shares))

    print(f"score of near-duplicates (1%, 5%, half below): {percentiles(pairs[same & together], 1, 5, 50)}")
    others = pairs[~same & ~together]
    print(f"score of {len(others)} others (half, 99.9% below; largest): {percentiles(others, 50, 99.9, 100)}")
    in_a_row = np.sort(np.array(capture_neighbors(names)), axis=1)
    in_a_row = in_a_row[groups[in_a_row[:, 0]] != groups[in_a_row[:, 1]]]
    print(f"score of {len(in_a_row)} others taken in a row (largest): {percentiles(in_a_row, 100)}")
    print(f"least score that counts: {SAME}, in a row {SAME_IN_A_ROW}")
    return 0


if __name__ == "__main__":
    run_script(main)
