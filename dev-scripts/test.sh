#!/usr/bin/env bash
# Sets up, checks and runs all tests. Arguments go to pytest: dev-scripts/test.sh -k checkpoint
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dev-scripts/setup.sh
dev-scripts/check.sh
exec .venv/bin/python -m pytest "$@"
