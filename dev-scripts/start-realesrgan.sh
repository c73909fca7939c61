#!/usr/bin/env bash
# Starts the realesrgan service in the foreground, on port 11111 unless PORT says otherwise. Ctrl-C ends it.
# Its settings are environment variables; see its README. Weights that are missing are fetched first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ -x .venv/bin/python ]] || { echo "start-realesrgan.sh: there is no .venv yet; run dev-scripts/setup.sh" >&2; exit 1; }
export WEIGHTS_DIR=${WEIGHTS_DIR:-data/weights}
if [[ ! -f ${MODELS_DIR:-$WEIGHTS_DIR/realesrgan}/RealESRGAN_x4plus.safetensors ]]; then
  dev-scripts/fetch-weights.sh
fi
exec .venv/bin/python -m realesrgan_service
