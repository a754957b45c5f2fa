#!/bin/sh
# Installs from this bundle, without a network: sh install.sh [FOLDER]   (default: /opt/defect-serve)
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
python="${PYTHON:-python@PYTHON@}"
if ! command -v "$python" >/dev/null 2>&1; then
  echo "error: $python not found; install Python @PYTHON@ with its venv module, or set PYTHON=/path/to/python@PYTHON@" >&2
  exit 1
fi
exec "$python" "$here/install.py" "${1:-/opt/defect-serve}"
