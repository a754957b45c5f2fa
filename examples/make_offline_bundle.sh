#!/usr/bin/env bash
# Packs all that a machine without internet needs to run the server: wheels, a model, the guide, service files.
# examples/make_offline_bundle.sh --model MODEL.onnx --output_dir bundle [--python 3.11] [--platform win_amd64]
# Runs on a machine with internet; PYTHON names an interpreter with this project's environment (default: .venv's).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ ! -x "$here/../.venv/bin/python" ] || PYTHON="$here/../.venv/bin/python"
fi
if ! "$PYTHON" -c 'import numpy, packaging' 2>/dev/null; then
  echo "error: $PYTHON lacks this project's packages; run: bash examples/make_environment.sh" >&2
  exit 1
fi
if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
  echo "error: $PYTHON has no pip; run: $PYTHON -m ensurepip, or set PYTHON to an interpreter that has it" >&2
  exit 1
fi
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" "$here/deploy/offline_bundle.py" "$@"
