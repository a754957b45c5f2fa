"""Kinds of image files: which are read, as what, and which are refused by name."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from dinov3.data.defect_images import ImageReadError, read_for_size, read_image
from dinov3.data.defect_partial_read import WindowReader

RAMP = np.linspace(0.05, 0.95, 40)[None].repeat(24, 0)


def write_tiff(path: Path, values: np.ndarray, **tags: int) -> Path:
    """An uncompressed TIFF in one strip: (H, W) grey, or (C, H, W) in planes; ``tags`` by number, as ``t262=0``."""
    planes = values[None] if values.ndim == 2 else values
    bits, (channels, height, width) = 8 * values.dtype.itemsize, planes.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1 if channels == 1 else 2, 273: 400, 277: channels}
    entries |= {278: height, 279: planes[0].nbytes, 339: kind} | {int(name[1:]): value for name, value in tags.items()}
    extra, more = b"", {}
    if channels > 1:
        entries[284] = 2
        step = planes[0].nbytes
        for tag, numbers in (
            (258, [bits] * 3),
            (339, [kind] * 3),
            (273, [400, 400 + step, 400 + 2 * step]),
            (279, [step] * 3),
        ):
            more[tag] = (len(numbers), 8 + 2 + 12 * len(entries) + 4 + len(extra))
            extra += struct.pack("<3I" if tag in (273, 279) else "<3H", *numbers)
    directory = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) or tag not in more else 3, *more.get(tag, (1, entries[tag])))
        for tag in sorted(entries)
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + extra
    path.write_bytes(head.ljust(400, b"\0") + np.ascontiguousarray(planes).tobytes())
    return path


@pytest.mark.parametrize(("kind", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_tiff_in_which_0_is_white_is_the_same_picture(tmp_path: Path, kind: type, top: int) -> None:
    values = (RAMP * top).round().astype(kind)
    plain = write_tiff(tmp_path / "plain.tif", values)
    turned = write_tiff(tmp_path / "turned.tif", top - values, t262=0)
    lzw = tmp_path / "lzw.tif"
    Image.open(turned).save(lzw, compression="tiff_lzw", tiffinfo={262: 0})
    expected = read_image(plain)
    assert expected[0, 0, 0] < 20 and expected[0, -1, 0] > 235
    for read in (read_image, lambda path: WindowReader(path)[:, :]):
        assert np.abs(read(turned).astype(int) - expected).max() <= 1
    if kind is np.uint16:
        assert np.abs(read_image(lzw).astype(int) - expected).max() <= 1


def test_planes_of_8_bits_are_read_and_deeper_ones_refused(tmp_path: Path) -> None:
    planes = np.stack([RAMP, RAMP[:, ::-1], 0 * RAMP + 0.3])
    path = write_tiff(tmp_path / "planes.tif", (planes * 255).round().astype(np.uint8))
    assert (read_image(path) == (planes * 255).round().transpose(1, 2, 0)).all()
    deep = write_tiff(tmp_path / "deep.tif", (planes * 65535).round().astype(np.uint16))
    with pytest.raises(ImageReadError, match=r"deep.tif: a TIFF with 16-bit channels in separate planes; save it"):
        read_image(deep)


@pytest.mark.parametrize(
    ("values", "tags", "reason"),
    [
        ((RAMP * 30000 - 9000).astype(np.int16), {}, "signed integers"),
        ((RAMP * 30000 - 9000).astype(np.int32), {}, "signed integers"),
        ((RAMP * 2**31).astype(np.uint32), {}, "32-bit values from .* expected 0 to 65535"),
        (RAMP.astype(np.float32), {"t262": 0}, "32-bit TIFF in which 0 is white"),
    ],
)
def test_values_without_an_agreed_meaning_are_refused(tmp_path: Path, values, tags, reason) -> None:
    with pytest.raises(ImageReadError, match=f"odd.tif: .*{reason}"):
        read_image(write_tiff(tmp_path / "odd.tif", values, **tags))


def test_32_bit_values_within_16_bits_are_read(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "wide.tif", (RAMP * 65535).round().astype(np.uint32))
    assert np.abs(read_image(path)[..., 0] - RAMP * 255).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("white", [1023, 16383])
def test_a_cameras_range_is_used_in_full(tmp_path: Path, suffix: str, white: int) -> None:
    values = (RAMP * white).round().astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"grey.{suffix}")
    colour = np.stack([values, values[:, ::-1], values // 2], -1)  # blue, green, red to OpenCV
    cv2.imwrite(str(tmp_path / f"colour.{suffix}"), colour)
    grey = read_image(tmp_path / f"grey.{suffix}", white)
    assert np.abs(grey[..., 1] - RAMP * 255).max() <= 0.51 + 127.5 / white  # rounded twice
    found, size = read_for_size(tmp_path / f"colour.{suffix}", 16, white)
    assert size == RAMP.shape
    assert np.abs(found - colour[..., ::-1] * (255 / white)).max() <= 0.51
    part = WindowReader(tmp_path / f"grey.{suffix}", white)[3:9, 5:20]
    assert (part == grey[3:9, 5:20]).all()
    with pytest.raises(ImageReadError, match=f"values up to {values.max()}; expected at most 255, the white_level"):
        read_image(tmp_path / f"grey.{suffix}", 255)


def test_only_pictures_in_regular_files_are_opened(tmp_path: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"
    for name in ("a.jpg", "b.png", "c.tif"):
        (tmp_path / name).write_bytes(script)
        with pytest.raises(ImageReadError, match=f"{name}: not an image, or not of a format that is read"):
            read_image(tmp_path / name)
    (tmp_path / "d.png").write_bytes(b"%PDF-1.4\n1 0 obj\n")
    with pytest.raises(ImageReadError, match="not an image"):
        read_image(tmp_path / "d.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    reasons: list[str] = []

    def read() -> None:
        try:
            read_image(tmp_path / "pipe.png")
        except ImageReadError as error:
            reasons.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert len(reasons) == 1 and "a pipe, socket or device" in reasons[0]


def test_costly_files_are_refused_with_a_way_out(tmp_path: Path) -> None:
    code = (
        "import sys; from dinov3.data.defect_images import read_image, ImageReadError\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(read_image(path).shape)\n"
        "    except ImageReadError as error: print(error)\n"
    )
    Image.new("L", (300, 200)).save(tmp_path / "large.png")
    Image.new("L", (30, 20)).save(tmp_path / "small.png")
    command = [sys.executable, "-c", code, str(tmp_path / "large.png"), str(tmp_path / "small.png")]
    for limit, expected in (("59999", "300 x 200, more than 59,999 pixels"), ("60000", "(200, 300, 3)")):
        environment = os.environ | {"DEFECT_MAX_PIXELS": limit, "PYTHONPATH": str(ROOT)}
        lines = subprocess.run(command, env=environment, capture_output=True, text=True).stdout.splitlines()
        assert expected in lines[0] and lines[1] == "(20, 30, 3)"
        assert ("set DEFECT_MAX_PIXELS to more" in lines[0]) == (limit == "59999")
    Image.new("L", (1, 4_000_000)).save(tmp_path / "thread.png")
    with pytest.raises(ImageReadError, match="too narrow to be resized to a square; cut it into pieces or use tiles"):
        read_for_size(tmp_path / "thread.png", 512)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "p.jpg", progressive=True)
    data = (tmp_path / "p.jpg").read_bytes()
    scan = data.rindex(b"\xff\xda")
    (tmp_path / "p.jpg").write_bytes(data[:-2] + data[scan:-2] * 200 + data[-2:])
    with pytest.raises(ImageReadError, match="more than 100 scans"):
        read_image(tmp_path / "p.jpg")
