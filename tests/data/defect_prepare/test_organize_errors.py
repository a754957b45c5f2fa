"""Wrong use of prepare_defect_data.py, and runs that break off: one clear message, nothing lost."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers.organizing import arguments, assert_refused, content, mask_of, picture, save

from dinov3.data.defect_manifest import read_manifest

# --- wrong use


def test_missing_folders_and_flags(parts, script):
    def run(*flags: object, **folders: str) -> tuple[int, str, str]:
        return script("prepare_defect_data", *arguments(parts, *flags, **folders))

    (parts / "empty").mkdir()
    (parts / "text").mkdir()
    (parts / "text" / "a.txt").touch()
    assert_refused(run(bad="absent"), f"{parts / 'absent'}: no such folder")
    assert_refused(run(masks="absent"), f"{parts / 'absent'}: no such folder")
    assert_refused(run(good="absent"), f"{parts / 'absent'}: no such folder")
    assert_refused(run(good="good/00.png"), "00.png: not a folder")
    assert_refused(run(bad="empty"), f"{parts / 'empty'}: no images in it")
    assert_refused(run(bad="bad text"), f"{parts / 'text'}: no images in it")
    assert_refused(run(good="empty"), f"{parts / 'empty'}: no images in it")
    assert_refused(run(masks="empty"), f"{parts / 'empty'}: no masks in it")
    assert_refused(run(good=""), "--normal_images is missing")
    assert_refused(run(bad=""), "--defect_images is missing")
    assert_refused(run(good="bad"), f"{parts / 'bad'}: given twice")
    assert_refused(run(bad="bad ./bad"), "given twice")
    assert_refused(run(masks="good"), f"{parts / 'good'}: no masks among its images")
    assert_refused(run(masks="bad"), f"{parts / 'bad'}: no masks among its images", "a_mask.png")
    assert_refused(run("--classes_from_folders"), "00.png: --classes_from_folders expects one subfolder per class")
    assert_refused(run("--group_csv", parts / "absent.csv"), "absent.csv: no such file (--group_csv)")
    assert_refused(run("--val_split", 0.6, "--test_split", 0.4), "--val_split 0.6 and --test_split 0.4", "less than 1")
    assert_refused(
        script("prepare_defect_data", "organize", "--output_dir", parts / "out"), "--defect_images is missing"
    )
    unlabeled = ("--unlabeled_images", parts / "bad", "--check_data")  # more to do than a check
    assert_refused(
        script("prepare_defect_data", "organize", "--output_dir", parts / "out", *unlabeled),
        "--defect_images is missing",
    )
    assert not (parts / "out").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--val_split", "1.5"), ("--test_split", "-0.1"), ("--val_split", "nan"), ("--val_split", "a"), ("--seed", "-1")],
)
def test_wrong_flag_values_are_usage_errors(parts, script, flag, value):
    result = script("prepare_defect_data", *arguments(parts, f"{flag}={value}"))
    assert_refused(result, flag, value, status=2)


def test_masks_that_fit_no_image_are_refused(parts, script):
    for path in list((parts / "masks").iterdir()):
        path.rename(path.with_name(f"m{path.name}"))
    result = script("prepare_defect_data", *arguments(parts))
    assert_refused(result, "none of the 10 masks, first", "m00.png", "expected the same file name")


def test_one_folder_of_undecided_pairs_is_refused(parts, script):
    save(parts / "bad" / "00.bmp", mask_of(0))
    result = script("prepare_defect_data", *arguments(parts, masks="bad"))
    assert_refused(result, "00.bmp and 00.png: which is the image, which the mask?")


def test_images_beside_their_masks_are_not_taken_for_masks(parts, script):
    for i in range(10, 20):
        save(parts / "types" / "crack" / f"{i:02}.jpg", picture(i), quality=95)
        save(parts / "types" / "crack" / f"{i:02}.png", mask_of(i))
    shutil.move(parts / "bad", parts / "types" / "dent")
    flag, bad = "--classes_from_folders", "types"
    result = script("prepare_defect_data", *arguments(parts, flag, bad=bad, masks="masks types/crack"))
    assert_refused(result, f"{parts / 'types' / 'crack'}: images beside their masks", "leave it out of --defect_masks")
    assert script("prepare_defect_data", *arguments(parts, flag, bad=bad))[0] == 0
    manifest = read_manifest(parts / "out")
    assert manifest.classes == ["normal", "crack", "dent"]
    assert (manifest.columns["mask"] != "").sum() == 20


def test_a_defect_class_called_normal_is_refused(parts, script):
    shutil.copytree(parts / "good", parts / "types" / "normal")
    shutil.move(parts / "bad", parts / "types" / "dent")
    result = script("prepare_defect_data", *arguments(parts, "--classes_from_folders", bad="types"))
    assert_refused(result, "a defect class cannot be called normal; give it as --normal_images")


# --- the output folder


def test_an_output_folder_in_use_is_left_alone(parts, script):
    save(parts / "used" / "other.png", picture(0))
    before = content(parts)
    assert_refused(script("prepare_defect_data", *arguments(parts, output="used")), "exists and is not empty")
    assert_refused(
        script("prepare_defect_data", *arguments(parts, "--overwrite", output="used")),
        f"{parts / 'used'}: holds other files than a dataset",
    )
    assert_refused(script("prepare_defect_data", *arguments(parts, output="good")), "lies in --output_dir")
    assert_refused(script("prepare_defect_data", *arguments(parts, output="used/other.png")), "a file; --output_dir")
    for output in ("good/00.png/out", "good/00.png/deep/out"):
        assert_refused(script("prepare_defect_data", *arguments(parts, output=output)), "cannot be written")
    assert content(parts) == before


def test_overwrite_replaces_a_dataset(parts, organize, script):
    organize()
    (parts / "good" / "19.png").unlink()
    assert_refused(script("prepare_defect_data", *arguments(parts)), "exists and is not empty", "--overwrite")
    manifest, _ = organize("--overwrite")
    assert len(manifest) == 29
    assert sorted(os.listdir(parts)) == ["bad", "good", "masks", "out"]


def test_an_empty_output_folder_and_missing_parents_are_fine(parts, script):
    (parts / "empty").mkdir()
    for output in ("empty", "deep/er/out"):
        assert script("prepare_defect_data", *arguments(parts, output=output))[0] == 0
        assert len(read_manifest(parts / output)) == 30


def test_a_link_stays_and_what_it_leads_to_is_replaced(parts, organize):
    other = parts / "other disk"
    (other / "data").mkdir(parents=True)
    (parts / "out").symlink_to(other / "data")
    for flags, images in (((), 30), (("--overwrite",), 29), (("--append",), 30)):
        assert len(organize(*flags)[0]) == images
        assert (parts / "out").is_symlink()
        assert len(read_manifest(other / "data")) == images
        assert os.listdir(other) == ["data"]
        assert sorted(os.listdir(parts)) == ["bad", "good", "masks", "other disk", "out"]
        if images == 30:
            (parts / "good" / "19.png").unlink(missing_ok=True)
        else:
            save(parts / "good" / "19.png", picture(119))


@pytest.mark.parametrize(("here", "output"), [("empty", "."), ("empty", "../empty"), ("empty/deep", "..")])
def test_the_current_folder_is_refused_before_any_work(parts, script, monkeypatch, here, output):
    (parts / here).mkdir(parents=True)
    monkeypatch.chdir(parts / here)
    before = sorted(parts.rglob("*"))
    line = arguments(parts)
    line[2] = output
    assert_refused(script("prepare_defect_data", *line), f"{output}: the current folder", "choose a folder in it")
    assert sorted(parts.rglob("*")) == before
    line[2] = "inner"
    assert script("prepare_defect_data", *line)[0] == 0
    assert len(read_manifest("inner")) == 30


def test_a_mount_point_is_refused_before_any_work_and_can_be_appended_to(parts, organize):
    organize()
    shutil.move(parts / "out", parts / "data")
    save(parts / "good" / "20.png", picture(120))
    (parts / "out").mkdir()
    script = shlex.quote(str(ROOT / "examples" / "prepare_defect_data.py"))
    command = f"{shlex.quote(sys.executable)} {script} {shlex.join(arguments(parts))}"
    mount = f"cd {shlex.quote(str(parts))} && mount -t tmpfs none out"
    try:
        subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a mount needs Linux, and the right to make one")

    def run(line: str) -> tuple[int, str, str]:
        done = subprocess.run(["unshare", "-rm", "sh", "-c", f"{mount} && {line}"], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    result = run(command)
    assert_refused(result, f"{parts / 'out'}: a mount point", f"such as {parts / 'out' / 'dataset'}")
    assert "organize:" not in result[2]  # the bar of the images
    status, out, err = run(f"cp -r data/. out && {command} --append && ls -A out")
    assert status == 0, err
    assert "1 images added to 30" in out
    assert out.splitlines()[-4:] == ["dataset.json", "images", "manifest.csv", "masks"]


def test_a_dataset_is_not_overwritten_by_its_own_images(parts, organize, script):
    organize()
    before = content(parts / "out")
    flags = {"bad": "out/images/bad", "masks": "", "good": "good"}
    result = script("prepare_defect_data", *arguments(parts, "--overwrite", "--link", **flags))
    assert_refused(result, "lies in --output_dir")
    assert content(parts / "out") == before


def test_a_full_disk_is_named_and_nothing_is_left(parts, script):
    resource = pytest.importorskip("resource", reason="limits on file size need a Unix system")
    save(parts / "good" / "large.png", np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # fails as a full disk does
    try:
        result = script("prepare_defect_data", *arguments(parts))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_refused(result, f"{parts / 'out'}: cannot be written", "nothing was kept")
    assert sorted(os.listdir(parts)) == ["bad", "good", "masks"]


# --- interruption


@pytest.mark.parametrize("overwrite", [False, True])
def test_ctrl_c_leaves_what_there_was(parts, organize, script, monkeypatch, overwrite):
    if overwrite:
        organize()
    before = content(parts)
    calls = []

    def interrupted(path, mask):
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dinov3.data.defect_prepare.writer.write_mask", interrupted)
        status, _, err = script("prepare_defect_data", *arguments(parts, "--overwrite"))
    assert status == 130
    assert "Traceback" not in err
    assert content(parts) == before
    assert len(organize("--overwrite")[0]) == 30


def test_a_killed_run_leaves_nothing_that_looks_whole(parts, organize):
    for i in range(20, 700):
        os.symlink(parts / "good" / "00.png", parts / "good" / f"{i:04}.png")
    command = [sys.executable, ROOT / "examples" / "prepare_defect_data.py", *arguments(parts)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(parts.glob(".out-*/images/good/00*.png")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (parts / "out").exists()
    assert not list(parts.rglob("manifest.csv"))
    for i in range(20, 700):
        (parts / "good" / f"{i:04}.png").unlink()
    assert len(organize()[0]) == 30  # no --overwrite needed
