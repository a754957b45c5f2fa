#!/usr/bin/env bash
# Makes the environment if needed and runs the whole test suite, a test on each core; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash examples/make_environment.sh dev
export OMP_NUM_THREADS=1  # of the processes that tests start
exec .venv/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal "$@"
