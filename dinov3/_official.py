"""Sharing the package name ``dinov3`` with a checkout of the official DINOv3 repository.

With this project's folder first on ``sys.path`` and a checkout after it, ``pkgutil.extend_path`` lets modules
of both be imported. The ``__init__`` files of ``models``, ``data`` and ``train`` exist in both and ours run,
so the names that the official ones define are looked up on demand: see `official_getattr`.

The other order cannot work: the official package is not extensible, and none of our code runs before Python
reports our modules as missing. ``examples/_bootstrap.py`` explains that case to users of the scripts.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import extend_path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dinov3.defect_errors import DefectError

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def official_getattr(package: str) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` (PEP 562) for `package` that finds names of its official namesake.

    The official ``__init__`` file is run at the first such name, under a name inside the package so that its
    relative imports work. What that file needs and does not find is reported as an ordinary
    ``ModuleNotFoundError``.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        # A submodule must be left to the import system: the official __init__ files import their own.
        # Private names are only ever probed for, by the interpreter and by notebooks.
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is None:
            official = _official_init(package)
            if hasattr(official, name):
                return getattr(official, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__


def _official_init(package: str) -> ModuleType | None:
    """Run the official ``__init__`` file of `package` once; None without a checkout on the path."""
    name = f"{package}._official_init"
    if name in sys.modules:
        return sys.modules[name]
    for folder in map(Path, sys.modules[package].__path__):
        file = folder / "__init__.py"
        if (folder.parent / "defect_errors.py").is_file() or not file.is_file():
            continue  # this project's own folder, or no package
        # No package of its own: its relative imports must mean the siblings in `package`, not second copies.
        spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=None)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    return None


def use_checkout(directory: str | Path) -> Path:
    """Make the official modules of the DINOv3 checkout in `directory` importable; return its full path.

    Appends the folder to ``sys.path`` and extends the ``dinov3`` packages that were imported before.

    Raises:
        DefectError: `directory` is not a checkout of the official repository.
    """
    root = Path(directory).expanduser().resolve()
    expected = ("hubconf.py", "dinov3/hub/backbones.py")
    missing = [file for file in expected if not (root / file).is_file()]
    if missing:
        raise DefectError(
            f"{directory} is not a checkout of the official DINOv3 repository: expected the files "
            f"{' and '.join(expected)} there, missing {' and '.join(missing)}. Pass the folder that "
            "'git clone https://github.com/facebookresearch/dinov3' made."
        )
    if str(root) not in sys.path:
        sys.path.append(str(root))
    for name in ("dinov3", "dinov3.models", "dinov3.data", "dinov3.train"):
        if name in sys.modules:
            sys.modules[name].__path__ = extend_path(sys.modules[name].__path__, name)
    return root


def load_official_backbone(directory: str | Path, name: str, weights: str | Path = "default") -> "nn.Module":
    """Build a backbone from the official code in `directory`.

    Args:
        directory: a checkout of the official repository.
        name: a function of its ``dinov3/hub/backbones.py``, such as ``dinov3_vits16``.
        weights: ``default`` (Meta's server), ``none`` (random) or a file in Meta's layout.

    Returns:
        The official module with ``name``, ``mean`` and ``std`` (ImageNet's) added. Note that the official
        ConvNeXt has ``patch_size`` None.

    Raises:
        DefectError: no such checkout or backbone, or weights that cannot be had or do not fit.
    """
    root = use_checkout(directory)
    # Not torch.hub.load: hubconf.py imports every head, and with them packages that no backbone needs.
    official = importlib.import_module("dinov3.hub.backbones")
    names = sorted(entry for entry in vars(official) if entry.startswith("dinov3_"))
    if name not in names:
        raise DefectError(f"no backbone {name!r} in {root}; it has: {', '.join(names)}")
    try:
        backbone = getattr(official, name)(pretrained=str(weights) == "default")
    except OSError as error:
        raise DefectError(
            f"the default weights of {name} could not be fetched ({error}). Meta's server asks for a signed "
            "link: get the file from https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/ "
            "and pass --weights FILE, or use --weights none"
        ) from error
    backbone.name, backbone.mean, backbone.std = name, IMAGENET_MEAN, IMAGENET_STD
    if str(weights) not in ("default", "none"):
        from dinov3.models.defect_weights import load_weights  # here, as dinov3.models imports this module

        load_weights(backbone, weights)
    return backbone
