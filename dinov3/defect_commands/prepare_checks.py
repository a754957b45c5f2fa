"""The commands ``check`` and ``leaks`` of ``defect-prepare``: what is wrong with a dataset."""

from __future__ import annotations

from dinov3.data.defect_checks.facts import examine
from dinov3.data.defect_checks.repair import CHANGES, Change, fix_dataset
from dinov3.data.defect_checks.report import print_issues, write_html, write_json
from dinov3.data.defect_checks.row_checks import Issue, check_dataset, judge
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_prepare.config import CheckConfig, LeaksConfig
from dinov3.data.defect_prepare.leakage import find_leaks, write_leaks
from dinov3.data.defect_prepare.leakage_sheet import draw_leaks
from dinov3.defect_display import on_a_line
from dinov3.defect_folder_kinds import expect_own_file, is_json_with, is_own_page, is_own_picture


def check_folder(config: CheckConfig, command: str) -> int:
    """Check a dataset and, if asked, write a repaired copy; 1 if there is an error in what is left."""
    expect_own_file(config.json, "--json", is_json_with("issues"))
    expect_own_file(config.html, "--html", is_own_page)
    manifest = read_manifest(config.dataset)
    facts = examine(manifest, config.image_size)
    issues = judge(manifest, facts, config.image_size)
    print_issues(manifest, issues)
    if config.json:
        write_json(config.json, issues)
    if config.html:
        write_html(config.html, manifest, issues)
    if config.fix:
        fixed, changes = fix_dataset(manifest, facts, config.output_dir, overwrite=config.overwrite, command=command)
        print_changes(fixed, changes)
        issues = check_dataset(fixed, config.image_size)
        print_issues(fixed, issues)
    return has_errors(issues)


def print_changes(manifest: Manifest, changes: list[Change]) -> None:
    """Each repair, up to a screenful; all are in the new dataset's list."""
    shown = 40
    for change in changes[:shown]:
        print(on_a_line(f"fixed: {change.check}: {change.file}: {change.change}"))
    more = f", the first {shown} above" if len(changes) > shown else ""
    print(f"{manifest.root}: {len(manifest)} images, {len(changes)} changes{more} ({manifest.root / CHANGES})")


def print_checks(manifest: Manifest) -> int:
    """Print what the checks found; 1 if there is an error among it."""
    issues = check_dataset(manifest)
    print_issues(manifest, issues)
    return has_errors(issues)


def has_errors(issues: list[Issue]) -> int:
    """The exit status."""
    return int(any(issue.severity == "error" for issue in issues))


def print_leaks(config: LeaksConfig, _command: str) -> int:
    """Look for images that show the same in different splits; 1 if there are any."""
    expect_own_file(config.json, "--json", is_json_with("count", "leaks"))
    expect_own_file(config.sheet, "--sheet", is_own_picture)
    manifest = read_manifest(config.dataset)
    leaks = find_leaks(manifest)
    for leak in leaks[:10]:
        how = leak.kind if leak.score is None else f"{leak.kind} {leak.score:.2f}"
        print(on_a_line(f"{how}: {leak.image_a} ({leak.split_a}), {leak.image_b} ({leak.split_b})"))
    if len(leaks) > 10:
        print(f"... and {len(leaks) - 10} more pairs" + ("" if config.json else " (--json FILE writes all of them)"))
    if config.json:
        write_leaks(config.json, leaks)
    if config.sheet and leaks:
        draw_leaks(leaks, config.sheet, manifest.root)
    images = {name for leak in leaks for name in (leak.image_a, leak.image_b)}
    pairs = f"{len(leaks)} pair{'s' * (len(leaks) > 1)} in different splits"
    found = f"{pairs}, {len(images)} images" if leaks else "no leaks"
    print(f"{manifest.root}: {len(manifest)} images, {found}")
    return int(bool(leaks))
