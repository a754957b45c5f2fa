#!/usr/bin/env bash
# Packs what gpu_check.sh needs on a machine without a network into an ignored folder, 64 MiB with the working tree:
# benchmarks/gpu_pack.sh --data FOLDER [--out gpu-pack]
# FOLDER holds solar_cells/ and magnetic_tile/; PYTHON names an interpreter with pip.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_pack.py" "$@"
