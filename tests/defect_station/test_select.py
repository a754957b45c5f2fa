"""select_defect_images.py: what to label next, and why each image was chosen."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.inspecting import FLAGS, write_images
from helpers.storing import inspected

from dinov3.data.defect_masks import write_mask
from dinov3.defect_station.candidates import Candidate
from dinov3.defect_station.selection import select
from dinov3.defect_station.store import Store
from dinov3.models.defect_facts import fingerprint

pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")


@pytest.fixture
def filled(tmp_path: Path) -> str:
    """A database of 60 images of 30 parts; 0050 to 0059 are copies of 0000 to 0009 under other names. The first ten
    are doubtful, the next ten disagree, and the next ten are novel; all others are far from all of that."""
    names = write_images(tmp_path / "images", 60, size=64)
    for name, copied in zip(names[50:], names[:10], strict=True):
        shutil.copy(tmp_path / "images" / copied, tmp_path / "images" / name)
    images = []
    for number, name in enumerate(names):
        probability = 0.59 - number / 1000 if number < 10 or number >= 50 else 0.05
        facts = {
            "disagreement": 10 <= number < 20,
            "novelty": {"deviations": float(number) if 20 <= number < 30 else 0.0},
        }
        path, image = tmp_path / "masks" / name, tmp_path / "images" / name
        write_mask(path, np.pad(np.ones((9, 9), np.uint8), (20, 35)))
        region = {"class_name": "pit", "polygon": [[20, 20]]}
        places = {"image_path": str(image), "mask_path": str(path), "part": f"P{number // 2}"}
        places |= {"content_hash": fingerprint(image)}
        images.append(inspected(number, probability, name=name, regions=[region], **facts, **places))
    with Store.open(str(tmp_path / "results.sqlite")) as store:
        store.add(images)
    return str(tmp_path / "results.sqlite")


def chosen_in(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "selection.csv").open(newline="", encoding="utf-8-sig") as file:
        return {row["source"]: row for row in csv.DictReader(file)}


def test_a_few_of_each_kind_no_two_alike_and_some_at_random(filled: str, tmp_path: Path, script) -> None:
    flags = ("--store", filled, "--count", 16, "--random_share", 0.25, "--output_dir")
    status, out, err = script("select_defect_images", *flags, tmp_path / "one")
    assert status == 0, err
    assert "16 of 60 images: " in out and "a part each of 30" in out
    chosen = chosen_in(tmp_path / "one")
    reasons = Counter(row["reason"] for row in chosen.values())
    assert reasons["random"] == 4 and min(reasons[kind] for kind in ("doubtful", "disagreeing", "novel")) > 2
    assert len({row["part"] for row in chosen.values()}) == 16
    number = {name: int(name[:4]) for name in chosen}
    selected = [number[name] % 50 for name, row in chosen.items() if row["reason"] != "random"]
    assert len(set(selected)) == 12, "no near-duplicates"
    for name, row in chosen.items():
        if row["reason"] in ("disagreeing", "novel"):
            assert number[name] // 10 == {"disagreeing": 1, "novel": 2}[row["reason"]]
        if row["reason"] == "novel":
            assert float(row["value"]) == number[name]
        assert (tmp_path / "one" / "images" / row["image"]).read_bytes() == (tmp_path / "images" / name).read_bytes()
        label = json.loads((tmp_path / "one" / "images" / row["image"]).with_suffix(".json").read_text())
        assert [shape["label"] for shape in label["shapes"]] == ["pit"] and label["imagePath"] == Path(
            row["image"]
        ).name
    assert script("select_defect_images", *flags, tmp_path / "two")[0] == 0
    assert chosen_in(tmp_path / "two") == chosen
    assert script("select_defect_images", *flags, tmp_path / "three", "--seed", 1)[0] == 0
    random = [{name for name, row in found.items() if row["reason"] == "random"} for found in
              (chosen, chosen_in(tmp_path / "three"))]  # fmt: skip
    assert random[0] != random[1]


def test_what_a_person_accepted_comes_without_regions_and_what_is_gone_is_named(filled, tmp_path: Path, script) -> None:
    with Store.open(filled) as store:
        for row in list(store.rows()):
            store.decide(row["id"], "Li", "accept" if row["name"] < "0030" else "reject", class_name="dent")
    (tmp_path / "images" / "0029.png").unlink()
    shutil.copy(tmp_path / "images" / "0031.png", tmp_path / "images" / "0030.png")  # which somebody rejected
    status, out, err = script(
        "select_defect_images", "--store", filled, "--count", 60, "--random_share", 0, "--output_dir", tmp_path / "out"
    )
    assert status == 0, err
    assert "2 images are gone or were overwritten since, such as 00" in out and "no more: all others" in out
    for name, row in chosen_in(tmp_path / "out").items():
        accepted = name < "0030"
        assert row["decision"] == ("accept" if accepted else "reject") and row["class_name"] == "dent"
        label = json.loads((tmp_path / "out" / "images" / row["image"]).with_suffix(".json").read_text())
        assert len(label["shapes"]) == (0 if accepted else 1)
    again = script("select_defect_images", "--store", filled, "--output_dir", tmp_path / "out")
    assert again[0] == 1 and "not empty, and labels in it would be lost; choose a new one" in again[2]


def test_an_inspection_s_folder_will_do(tmp_path: Path, script) -> None:
    from helpers.networks import small_facts
    from helpers.toy_onnx import write_toy

    model = write_toy(tmp_path / "toy.onnx", small_facts(thresholds={"classification": 0.5, "mask": 0.9}))
    names = write_images(tmp_path / "images", 12)
    flags = ("--checkpoint", model, "--image_dir", tmp_path / "images", *FLAGS, "--no_report", "--no_visualize")
    assert script("inference_defect_model", *flags, "--output_dir", tmp_path / "results")[0] == 0
    flags = ("--results", tmp_path / "results", "--count", 20, "--format", "coco", "--part_regex", "^(000)[01]")
    status, out, err = script("select_defect_images", *flags, "--output_dir", tmp_path / "out")
    assert status == 0, err
    chosen = chosen_in(tmp_path / "out")
    assert len(chosen) == 11 and set(chosen) < set(names), "one of each part"
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert len(content["images"]) == 11 and content["annotations"]
    bad = script("select_defect_images", "--results", tmp_path / "images", "--output_dir", tmp_path / "out2")
    assert bad[0] == 1 and "no run.json and predictions.json of an inspection in it" in bad[2]


def candidates_at(image: Path, parts: list[str], doubts: list[float] | None = None) -> list[Candidate]:
    doubts = doubts or [0.1] * len(parts)
    return [
        Candidate(f"{n}.png", image, None, part, "accept", 0.1, doubt, False, None, [])
        for n, (part, doubt) in enumerate(zip(parts, doubts, strict=True))
    ]


def test_each_part_has_the_same_chance_to_be_drawn(tmp_path: Path) -> None:
    """However many photographs there are of it, or the miss rate of the random share would be another one."""
    (image,) = (tmp_path / name for name in write_images(tmp_path, 1))
    candidates = candidates_at(image, ["a"] * 9 + list("bcdefghij"))
    drawn: Counter[str] = Counter()
    for seed in range(600):
        selection = select(candidates, 3, 1.0, seed, lambda _: [])
        assert len({chosen.candidate.part for chosen in selection.chosen}) == 3 and selection.parts == 10
        drawn.update(chosen.candidate.part for chosen in selection.chosen)
    assert all(abs(drawn[part] - 180) < 4 * np.sqrt(600 * 0.3 * 0.7) for part in "abcdefghij")


def test_doubtful_images_far_apart_come_before_more_doubtful_ones_alike(tmp_path: Path) -> None:
    images = [tmp_path / name for name in write_images(tmp_path, 9, size=64)]
    candidates = [candidates_at(image, [str(n)], [n / 100])[0] for n, image in enumerate(images)]
    cluster = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    vectors = np.eye(3, dtype=np.float32)[cluster] + np.arange(9)[:, None] / 1000

    def features(some: list[Candidate]) -> list[np.ndarray]:
        """One model saw the first two groups, another one the first and the last; pixels cannot tell the first two."""
        places = [int(candidate.part) for candidate in some]
        one, two, pixels = vectors.copy(), vectors * 10, vectors.copy()
        one[6:], two[3:6], pixels[:3] = np.nan, np.nan, vectors[3:6]
        return [values[places] for values in (one, two, pixels)]

    chosen = select(candidates, 3, 0.0, 0, features).chosen
    assert sorted(cluster[int(one.candidate.part)] for one in chosen) == [0, 1, 2]
    assert chosen[0].candidate.part == "0" and chosen[0].value == 0
