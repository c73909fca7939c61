#!/usr/bin/env bash
# Sets up, checks and runs all tests. Arguments go to pytest: dev-scripts/test.sh -k checkpoint
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dev-scripts/setup.sh
dev-scripts/check.sh
# A worker for each of up to four cores, and in each one thread: two pools on the same cores wait for each other.
workers=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .venv/bin/python -m pytest --numprocesses "$((workers < 4 ? workers : 4))" --dist loadfile --no-loadscope-reorder "$@"
