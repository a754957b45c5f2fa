#!/usr/bin/env bash
# All that needs a GPU, in one run that ends in time: benchmarks/gpu_check.sh [--minutes 9] [--out DIR]
# PYTHON names an interpreter that holds torch, torchvision and timm; nothing is installed into it.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_check.py" "$@"
