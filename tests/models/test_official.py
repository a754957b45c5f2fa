"""Living beside an official DINOv3 checkout, and computing what its code computes.

The official code itself is used where DINOV3_OFFICIAL_REPO names a checkout; a small stand-in with the same
structure checks the sharing of the package name everywhere.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinov3._official import load_official_backbone, use_checkout
from dinov3.defect_errors import DefectError
from dinov3.models.defect_backbone import build_backbone

ROOT = Path(__file__).resolve().parents[2]
REPO = Path(os.environ.get("DINOV3_OFFICIAL_REPO", "not set"))
needs_repo = pytest.mark.skipif(
    not (REPO / "hubconf.py").is_file(),
    reason="DINOV3_OFFICIAL_REPO does not name an official DINOv3 checkout",
)

STAND_IN = {
    "hubconf.py": "from dinov3.hub.backbones import dinov3_small\ndependencies = ['torch']\n",
    "dinov3/__init__.py": "__version__ = '0.0.1'\n",
    "dinov3/hub/__init__.py": "",
    "dinov3/hub/backbones.py": """
import urllib.error
def dinov3_small(*, pretrained=True):
    from ..models.vision_transformer import Network
    if pretrained:
        raise urllib.error.URLError("no network")
    return Network()
""",
    "dinov3/models/__init__.py": """
from . import vision_transformer as vits
def build_model():
    return vits.Network()
""",
    "dinov3/models/vision_transformer.py": "from dinov3.layers import Base\nclass Network(Base): pass\n",
    "dinov3/layers/__init__.py": "class Base: pass\n",
    "dinov3/data/__init__.py": "from .loaders import make_dataset\n",
    "dinov3/data/loaders.py": "def make_dataset(): return 'official'\n",
    "dinov3/train/__init__.py": "import a_package_that_is_missing\n",
}


@pytest.fixture
def checkout(tmp_path):
    """A folder laid out like the official repository."""
    folder = tmp_path / "checkout"
    for name, text in STAND_IN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(code, *path, cwd):
    """Run Python code in a process of its own with `path` as PYTHONPATH."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True, timeout=120
    )


def passes(code, *path, cwd):
    result = run(code, *path, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- one package name, two projects


def test_official_and_own_modules_are_found_together(checkout, tmp_path):
    code = """
import dinov3.hub.backbones
from dinov3.data import make_dataset
from dinov3.models import build_model
import dinov3.models.vision_transformer
import dinov3.models.defect_classifier
assert make_dataset() == "official"
assert isinstance(build_model(), dinov3.models.vision_transformer.Network)
assert dinov3.__version__ != "0.0.1"
assert not hasattr(dinov3.models, "something_else")
"""
    passes(code, ROOT, checkout, cwd=tmp_path)


def test_a_missing_package_of_the_official_code_is_named(checkout, tmp_path):
    for _ in range(2):  # the second attempt says the same
        result = run("from dinov3.train import SSLMetaArch", ROOT, checkout, cwd=tmp_path)
        assert "ModuleNotFoundError: No module named 'a_package_that_is_missing'" in result.stderr


def test_without_a_checkout_official_names_are_ordinary_import_errors(tmp_path):
    result = run("from dinov3.data import make_dataset", ROOT, cwd=tmp_path)
    assert "ImportError: cannot import name 'make_dataset' from 'dinov3.data'" in result.stderr


def test_torch_hub_load_works_beside_this_project(checkout, tmp_path):
    code = f"""
import dinov3.models.defect_classifier, torch
network = torch.hub.load({str(checkout)!r}, "dinov3_small", source="local", pretrained=False)
assert type(network).__name__ == "Network"
"""
    passes(code, ROOT, checkout, cwd=tmp_path)


def test_use_checkout_after_the_import(checkout, tmp_path):
    code = f"""
import dinov3.models, dinov3.data
from dinov3._official import load_official_backbone, use_checkout
from dinov3.defect_errors import DefectError
use_checkout({str(checkout)!r})
use_checkout({str(checkout)!r})
from dinov3.models import build_model
from dinov3.data import make_dataset
import dinov3.models.vision_transformer
backbone = load_official_backbone({str(checkout)!r}, "dinov3_small", "none")
assert backbone.name == "dinov3_small" and backbone.mean[0] == 0.485
for name, weights in (("dinov3_large", "none"), ("dinov3_small", "default")):
    try:
        load_official_backbone({str(checkout)!r}, name, weights)
    except DefectError as error:
        print(error)
"""
    output = passes(code, ROOT, cwd=tmp_path)
    assert "no backbone 'dinov3_large' in" in output and "it has: dinov3_small" in output
    assert "default weights of dinov3_small could not be fetched" in output and "--weights FILE" in output


def test_a_folder_that_is_no_checkout(tmp_path):
    path = list(sys.path)
    with pytest.raises(DefectError) as caught:
        use_checkout(tmp_path)
    assert f"{tmp_path} is not a checkout" in str(caught.value) and "git clone" in str(caught.value)
    assert sys.path == path


def test_scripts_find_this_project_though_the_checkout_comes_first(checkout, tmp_path):
    code = "import _bootstrap, dinov3.defect_errors, dinov3.hub.backbones"
    passes(code, ROOT / "examples", checkout, cwd=tmp_path)


def test_scripts_explain_the_wrong_order(checkout, tmp_path):
    result = run("import dinov3, _bootstrap", checkout, ROOT / "examples", cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"found {checkout / 'dinov3' / '__init__.py'}, expected {ROOT / 'dinov3'}" in result.stderr
    for remedy in (f"put {ROOT} before the checkout", "before torch.hub.load", "--dinov3_repo DIR"):
        assert remedy in result.stderr


# --- the official code itself


@needs_repo
def test_the_official_repository_beside_this_project(tmp_path):
    if subprocess.run([sys.executable, "-c", "import termcolor"], capture_output=True).returncode:
        (tmp_path / "termcolor.py").write_text("def colored(text, *args, **kwargs): return text\n")
    code = f"""
import dinov3.models.defect_classifier, dinov3.models.defect_backbone
import dinov3.hub.backbones, dinov3.models.vision_transformer, dinov3.models.convnext
from dinov3.models import build_model_from_cfg
from dinov3.data import DataAugmentationDINO, make_dataset
import torch
network = torch.hub.load({str(REPO)!r}, "dinov3_vits16", source="local", pretrained=False)
assert isinstance(network, dinov3.models.vision_transformer.DinoVisionTransformer)
"""
    passes(code, ROOT, REPO, tmp_path, cwd=tmp_path)


@torch.no_grad()
def randomize(network):
    """Give every tensor values that matter: layer scales, biases and tokens start at (nearly) zero."""
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return network.eval()


@needs_repo
@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_vits16plus", "dinov3_convnext_tiny"])
@torch.no_grad()
def test_same_features_as_the_official_network(name, tmp_path):
    official = randomize(load_official_backbone(REPO, name, "none"))
    torch.save(official.state_dict(), tmp_path / "meta.pth")
    backbone = build_backbone(name, tmp_path / "meta.pth").eval()
    assert (backbone.embed_dim, backbone.n_blocks) == (official.embed_dim, official.n_blocks)
    assert getattr(backbone, "embed_dims", None) == getattr(official, "embed_dims", None)
    assert (backbone.mean, backbone.std) == (official.mean, official.std)

    def compare(ours, theirs):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    torch.manual_seed(0)
    for height, width in ((64, 64), (64, 96)):
        images = torch.randn(2, 3, height, width)
        ours, theirs = backbone.forward_features(images), official.forward_features(images)
        for key in ("x_norm_clstoken", "x_norm_patchtokens"):
            compare(ours[key], theirs[key])
            assert (ours[key] - theirs[key]).abs().max() < 1e-5
        compare(backbone(images), official(images))
        for options in (
            {"n": 4, "reshape": True, "return_class_token": True},
            {"n": [1, 3], "reshape": True, "return_class_token": True, "norm": False},
            {"n": [0, 2]},
            {},
        ):
            ours = backbone.get_intermediate_layers(images, **options)
            theirs = official.get_intermediate_layers(images, **options)
            assert type(ours) is type(theirs) is tuple and len(ours) == len(theirs)
            for mine, other in zip(ours, theirs, strict=True):
                if options.get("return_class_token"):
                    compare(mine[0], other[0])
                    compare(mine[1], other[1])
                else:
                    compare(mine, other)


@needs_repo
@torch.no_grad()
def test_official_modules_read_meta_files(tmp_path):
    official = randomize(load_official_backbone(REPO, "dinov3_vits16", "none"))
    torch.save(official.state_dict(), tmp_path / "meta.pth")
    again = load_official_backbone(REPO, "dinov3_vits16", tmp_path / "meta.pth").eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images), official(images))
    torch.save(build_backbone("dinov3_vits16", "none").network.state_dict(), tmp_path / "timm.pth")
    with pytest.raises(DefectError, match="does not fit dinov3_vits16. .*missing: storage_tokens"):
        load_official_backbone(REPO, "dinov3_vits16", tmp_path / "timm.pth")
