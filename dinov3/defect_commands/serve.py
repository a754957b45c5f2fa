"""Serve a trained model: images by HTTP, verdicts back.

python examples/serve_defect_model.py --checkpoint export/best_accuracy.onnx
curl -F images=@part.png http://127.0.0.1:8000/v1/inspect
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dinov3.defect_cli import make_parser, parse
from dinov3.defect_errors import run_script
from dinov3.defect_serving.config import ServeConfig

EXIT_STATUS = "exit status: 0 stopped by SIGTERM or Ctrl-C, 2 wrong usage, 1 any other problem"


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(ServeConfig, __doc__, epilog=EXIT_STATUS)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    config = parse(ServeConfig, build_parser(), argv)
    from dinov3.defect_serving.running import serve  # needs the extra 'server'

    serve(config)
    return 0


def console() -> None:
    """The command ``defect-serve``."""
    run_script(main)
