"""What TensorBoard shows of a run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_squares
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.train.defect_run_log import image_scores
from dinov3.train.defect_run_pictures import _heat


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The save_dir of two epochs with learned task weights and rates by layer, on images that need padding."""
    import train_defect_model

    folder = tmp_path_factory.mktemp("log")
    data = write_squares(folder / "data", train=8, val=6, test=2)
    flags = "--backbone dinov3_vitt16 --weights none --image_size 40 --batch_size 4 --num_workers 0 --device cpu"
    flags += " --epochs 2 --use_uncertainty_weighting --layer_decay 0.8 --decoder light"
    train_defect_model.main(["--data_root", str(data.root), "--save_dir", str(folder / "run"), *flags.split()])
    return folder / "run"


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def series(events: EventAccumulator, name: str) -> list[float]:
    scalars = events.Scalars(name)
    assert [event.step for event in scalars] == [0, 1], name
    return [event.value for event in scalars]


def test_numbers_are_those_of_the_log(run: Path, events: EventAccumulator) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in "train_total_loss val_cls_loss alpha beta image_accuracy images_per_second lr_heads".split():
        assert series(events, name) == pytest.approx([line[name] for line in lines], rel=1e-6), name
    assert all(0.05 < value < 1000 for value in series(events, "peak_memory_gib"))


def test_every_group_shows_its_rate(events: EventAccumulator) -> None:
    """Layers learn faster from the image up, and the heads fastest."""
    names = [name for name in events.Tags()["scalars"] if name.startswith("learning_rate/")]
    layers = [name for name in names if name.startswith("learning_rate/backbone_") and "no_decay" not in name]
    layers.sort(key=lambda name: int(name.rsplit("_", 1)[1]))
    rates = [series(events, name)[1] for name in (*layers, "learning_rate/heads", "learning_rate/task_weights")]
    assert len(layers) >= 12 and rates == sorted(rates) and len(set(rates)) == len(rates)


def picture(events: EventAccumulator, name: str) -> np.ndarray:
    shown = events.Images(name)
    assert [event.step for event in shown] == [0, 1]
    return np.asarray(Image.open(io.BytesIO(shown[1].encoded_image_string)))


def test_examples_show_true_mask_prediction_and_attention(events: EventAccumulator) -> None:
    page = picture(events, "val_examples")
    assert page.shape == (2 * 42 + 2, 6 * 42 + 2, 3)  # three defects, two a row, two pixels apart
    true, attention = page[2:42, 2:42], page[2:42, 86:126]
    assert not np.array_equal(true, attention)
    # The images are gray, so color is what was drawn: on a part of the first picture, everywhere on the third.
    assert np.ptp(true, axis=2).min() == 0 < np.ptp(true, axis=2).max() and np.ptp(attention, axis=2).mean() > 20


def test_attention_is_bright_where_the_model_looks() -> None:
    image = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    attention = torch.zeros(1, 3, 3)
    attention[0, 2, 0] = 1  # the cell over rows 32 to 47 of the padded image
    heat = _heat(image, attention, 16)
    assert heat.shape == image.shape and heat[1, 39, 2] > 170 > 100 > heat[1, 2, 39]


def test_curve_and_confusion_are_there(run: Path, events: EventAccumulator) -> None:
    (first, last) = events.Tensors("val_defect")
    table = make_ndarray(last.tensor_proto)  # (6, thresholds): true positives first, false positives, ...
    assert (first.step, last.step) == (0, 1) and table[0, 0] == 3 and table[1, 0] == 3  # at threshold 0 all are flagged
    assert picture(events, "val_confusion").ndim == 3


def test_scores_of_known_images_alone() -> None:
    metrics = DefectMetrics(2)
    assert image_scores(metrics) is None
    probability = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    masks, has_mask = torch.zeros(3, 4, 4), torch.ones(3, dtype=torch.bool)
    metrics.update(probability, torch.zeros(3, 4, 4), torch.tensor([0, 1, -1]), masks, has_mask)
    labels, scores = image_scores(metrics)
    assert labels.tolist() == [0, 1] and scores.tolist() == pytest.approx([0.1, 0.8])
