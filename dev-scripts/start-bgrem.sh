#!/usr/bin/env bash
# Runs background removal in the foreground, on port 4000 (PORT); Ctrl-C ends it. Fetches its weights if need be.
# Its other settings are in its README.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ -x .venv/bin/python ]] || { echo "start-bgrem.sh: there is no .venv yet; run dev-scripts/setup.sh" >&2; exit 1; }
export PORT=${PORT:-4000} WEIGHTS_DIR=${WEIGHTS_DIR:-data/weights}
exec .venv/bin/python -m bgrem
