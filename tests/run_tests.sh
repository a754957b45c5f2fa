#!/usr/bin/env bash
# Makes the environment if needed and runs the whole test suite; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash examples/make_environment.sh dev
exec .venv/bin/python -m pytest "$@"
