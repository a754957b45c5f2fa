#!/usr/bin/env bash
# Runs every fuzz target for five minutes (FUZZ_MINUTES) with examples that no run before had; arguments go to pytest.
# Each may take 2 GB of memory more than at its start (tests/helpers/fuzzing.py), and the whole has a time limit.
set -euo pipefail
cd "$(dirname "$0")/../.."
export FUZZ_MINUTES=${FUZZ_MINUTES:-5}
exec timeout --kill-after=60 12h bash tests/run_tests.sh tests/fuzz -o faulthandler_timeout=120 "$@"
