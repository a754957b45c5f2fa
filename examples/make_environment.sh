#!/usr/bin/env bash
# Makes .venv with this project, its dependencies and the offline backbone; with 'dev', the test tools too.
# Run again, it does nothing unless the dependencies changed.
set -euo pipefail
cd "$(dirname "$0")/.."
extras="train,export,offline${1:+,$1}"
PYTHON="${PYTHON:-python3}"
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; then
  echo "error: $("$PYTHON" --version 2>&1) found; expected Python 3.10 to 3.13. Set PYTHON=/path/to/python3.11" >&2
  exit 1
fi
stamp=".venv/installed-$extras"
if [ -f "$stamp" ] && [ "$stamp" -nt requirements-defect-detection.txt ] && [ "$stamp" -nt setup.py ]; then
  exit 0
fi
echo "Installing into .venv: some minutes, up to 6 GB with CUDA libraries"
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear .venv
.venv/bin/python -m pip install --disable-pip-version-check -q --progress-bar on -e ".[$extras]"
touch "$stamp"
