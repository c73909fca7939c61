#!/usr/bin/env bash
# Runs the upsampler in the foreground, on port 4455 (PORT); Ctrl-C ends it. Its default model is in the repository.
# Its other settings are in its README.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ -x .venv/bin/python ]] || { echo "start-upsampler.sh: there is no .venv yet; run dev-scripts/setup.sh" >&2; exit 1; }
export PORT=${PORT:-4455} WEIGHTS_DIR=${WEIGHTS_DIR:-data/weights}
exec .venv/bin/python -m upsampler
