"""Updates that are skipped, by the host or by the device itself, and what is counted of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import test_guardrails
import torch
import torch.distributed as dist
from conftest import write_squares
from torch import Tensor, nn

import dinov3.train.train_defect_classifier as loop
from dinov3.data.defect_dataset import DefectDataset, make_loader
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_distributed import Agreement, World
from dinov3.defect_errors import DefectError
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss
from dinov3.models.defect_device import resolve_precision
from dinov3.train import defect_state
from dinov3.train.defect_checkpointer import BackgroundWriter, Checkpointer
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_ema import ModelEma
from dinov3.train.defect_guardrails import LossGuard
from dinov3.train.defect_meter import MAX_OVERFLOWS, EpochMeter
from dinov3.train.defect_optim import SkippingOptimizer, restore_optimizer, taint
from dinov3.train.defect_state import TrainState

pytestmark = pytest.mark.usefixtures("undrawn")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_squares(tmp_path_factory.mktemp("update") / "data", train=12, val=4, test=2)


class Update:
    """A small network with an optimizer, and updates of them from a loss times a factor."""

    def __init__(self, fused: bool):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.1, fused=fused or None)
        self.ema = ModelEma(self.network, decay=0.5)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.skipping = SkippingOptimizer(self.optimizer, self.network, scaler, grad_clip=1.0)
        self.number = 0

    def run(self, *factors: float) -> tuple[Tensor, Tensor]:
        """An update from as many batches as ``factors``."""
        self.number += 1
        self.skipping.zero_grad()
        for factor in factors:
            loss = self.network(torch.randn(8, 4)).square().mean()
            self.skipping.backward(loss * factor)
        norm, skipped = self.skipping.step()
        self.ema.update(self.number, skipped)
        return norm, skipped

    def state(self) -> list[Tensor]:
        """All that an update may change."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        values = [*self.network.state_dict().values(), *self.ema.module.state_dict().values(), *moments]
        return [value.clone() for value in values]


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_that_is_skipped_changes_nothing(fused: bool) -> None:
    update = Update(fused)
    for _ in range(3):
        assert not update.run(1.0)[1]
    before = update.state()
    for factors in ((float("nan"),), (float("inf"),), (1.0, float("-inf")), (1e38, 1e38)):
        norm, skipped = update.run(*factors)
        assert skipped and not norm.isfinite()
        after = update.state()
        assert len(after) == len(before)
        assert all(torch.equal(value, kept) for value, kept in zip(after, before, strict=True)), factors
    assert not update.run(1.0)[1]
    changed = [not torch.equal(value, kept) for value, kept in zip(update.state(), before, strict=True)]
    assert all(changed)  # weights, statistics, averages, moments, step counts


@pytest.mark.parametrize("fused", [False, True])
def test_the_average_does_not_move_with_weights_that_did_not(fused: bool) -> None:
    """It trails behind the weights, so an update that only repeats them would still move it."""
    update = Update(fused)
    for _ in range(5):
        update.run(1.0)
    trained, averaged = (model.state_dict()["0.weight"].clone() for model in (update.network, update.ema.module))
    assert not torch.equal(trained, averaged)
    update.run(float("nan"))
    assert torch.equal(update.ema.module.state_dict()["0.weight"], averaged)


def test_a_loss_taints_its_gradient_only_if_it_is_not_finite() -> None:
    """Infinity times a weight may have a finite gradient: cross-entropy at an infinite logit has."""
    for logit, is_finite in ((2.0, True), (float("inf"), False)):
        value = torch.tensor(logit, requires_grad=True)
        loss = nn.functional.binary_cross_entropy_with_logits(value, torch.tensor(0.0))
        plain = torch.autograd.grad(loss, value, retain_graph=True)[0]
        assert plain.isfinite()
        tainted = torch.autograd.grad(taint(loss), value)[0]
        assert torch.equal(tainted, plain) if is_finite else tainted.isnan()


def test_a_run_begun_on_the_cpu_goes_on_with_a_fused_optimizer() -> None:
    """Which wants its step counts beside the weights; the meta device stands for a GPU."""
    parameter = torch.ones(3, requires_grad=True)
    begun = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    begun.step()
    fused = torch.optim.AdamW([torch.empty(3, device="meta", requires_grad=True)])
    fused.param_groups[0]["fused"] = True
    restore_optimizer(fused, begun.state_dict())
    (state,) = fused.state.values()
    assert {name: value.device.type for name, value in state.items()} == dict.fromkeys(state, "meta")
    assert begun.param_groups[0]["fused"] is None


def test_overflows_are_forgiven_only_while_the_scale_can_fall(data: Manifest) -> None:
    """fp16 overflows now and then; gradients that never are finite end the run as in any precision."""
    loader = make_loader(DefectDataset(data.select("train"), 32), 1, num_workers=0)
    one = torch.zeros(1, dtype=torch.long)
    batch = {"index": one, "label": one, "has_mask": one == 0, "error": [""]}
    texts: list[str] = []

    def run(*norms: float) -> None:
        meter = EpochMeter(LossGuard(2), CPU, overflows=True, write=texts.append)
        meter.start(0, loader)
        for norm in norms:
            meter.add(batch, {"total_loss": torch.tensor(0.5)})
            meter.end_update(torch.tensor(norm))

    overflows = [float("inf")] * MAX_OVERFLOWS
    run(*overflows, 1.0, *overflows, 1.0)
    assert not texts
    with pytest.raises(DefectError, match="its gradient is not finite"):
        run(*overflows, *overflows[:3])
    assert len(texts) == 2


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device skips updates itself, and the host hears of it one update later."""

    def meter(*args: object, asynchronous: bool, **more: object) -> EpochMeter:
        return EpochMeter(*args, asynchronous=True, **more)

    monkeypatch.setattr(defect_state, "EpochMeter", meter)
    original = defect_state.build_optimizer

    def fused(*args: object, **settings: object) -> torch.optim.Optimizer:
        optimizer = original(*args, **settings)
        for group in optimizer.param_groups:
            group["fused"] = True
        return optimizer

    monkeypatch.setattr(defect_state, "build_optimizer", fused)


poison = test_guardrails.poison


@pytest.mark.parametrize(
    "check",
    [
        test_guardrails.test_a_batch_whose_loss_is_not_finite_is_named_and_changes_nothing,
        test_guardrails.test_a_bad_batch_takes_the_others_of_its_update_with_it,
        test_guardrails.test_too_many_such_batches_end_the_run,
    ],
)
def test_a_gpu_keeps_the_same_promises(check, as_on_a_gpu, data: Manifest, tmp_path: Path, script, poison) -> None:
    check(data, tmp_path, script, poison)


def test_what_is_counted_later_is_in_every_checkpoint(as_on_a_gpu, data: Manifest, tmp_path: Path, script) -> None:
    """A run saved after every update, and stopped in the middle of an epoch."""
    import json

    saved = []
    original = BackgroundWriter.submit

    def submit(writer: BackgroundWriter, paths: list[Path], content: dict, more: dict) -> None:
        if content["progress"] is not None:
            (mine,) = content["progress"]
            saved.append((mine["batches"], int(mine["counts"][0]), content["guard"]["seen"]))
        original(writer, paths, content, more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BackgroundWriter, "submit", submit)
        arguments = test_guardrails.flags(data, tmp_path, "--epochs", 1, "--save_every_minutes", 1e-9)
        assert script("train_defect_model", *arguments)[0] == 0
    assert saved and all(images == 4 * batches and seen == batches for batches, images, seen in saved)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["verdicts_seen"] == 12


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_what_is_agreed_on_asynchronously_is_done_once(alone) -> None:
    agreement = Agreement(CPU, asynchronous=True)
    assert [agreement.reach(values) for values in ([0, 1], [15, 0], [0, 0])] == [[0, 0], [0, 1], [15, 0]]
    agreement.reach([15, 0])
    agreement.forget()
    assert agreement.reach([0, 0]) == [0, 0]
    assert Agreement(CPU, asynchronous=False).reach([15, 0]) == [15, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a CUDA device can tell when the host waits for it")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_epoch_never_waits_for_the_device(tmp_path: Path, accumulate: int) -> None:
    device = torch.device("cuda")
    backbone = build_backbone("dinov3_vitt16", "none")
    model = AttentionGuidedDefectClassifier(backbone, backbone.embed_dim).to(device)
    criterion = MultiTaskLoss(use_uncertainty_weighting=True).to(device)
    precision = resolve_precision("auto", device)
    config = TrainConfig(data_root=tmp_path, save_dir=tmp_path, accumulate=accumulate, ema_decay=0.9)
    config = replace(config, backbone_lr_scale=0.1, layer_decay=1.0)
    state = TrainState(model, criterion, config, updates_per_epoch=12 // accumulate, precision=precision)
    parts = {
        "image": torch.zeros(4, 3, 64, 64, dtype=torch.uint8),
        "label": torch.tensor([0, 1, 0, 1]),
        "mask": torch.zeros(4, 64, 64, dtype=torch.uint8),
        "has_mask": torch.ones(4, dtype=torch.bool),
        "index": torch.arange(4),
    }
    batch = {name: value.pin_memory() for name, value in parts.items()} | {"error": [""] * 4}

    class Watched:
        """Twelve batches; after the first four, which set things up, waiting raises."""

        def __len__(self) -> int:
            return 12

        def __iter__(self) -> Iterator[dict]:
            for number in range(len(self)):
                torch.cuda.set_sync_debug_mode("error" if number >= 4 else "default")
                yield batch

    compute = state.meter.compute

    def compute_after_the_last() -> dict[str, float]:
        torch.cuda.set_sync_debug_mode("default")
        return compute()

    state.meter.compute = compute_after_the_last
    try:
        result = loop.train_one_epoch(
            state,
            Watched(),
            precision=precision,
            normalization=Normalization((0.5,) * 3, (0.5,) * 3),
            checkpointer=Checkpointer(config, {}, World(), device),
            progress=False,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result["verdicts_seen"] == 48 and result["skipped_batches"] == 0
