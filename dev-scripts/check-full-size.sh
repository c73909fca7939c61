#!/usr/bin/env bash
# Runs the trainer and the engine on a Stable Diffusion 1.5 of full size, with random weights and no download:
# two LoRA steps and one picture of two steps, in under 16 GB of memory. Takes minutes, and 5 GB of disk in $TMPDIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$PWD/.venv/bin/python
[[ -x $python ]] || { echo "check-full-size.sh: there is no .venv yet; run dev-scripts/setup.sh" >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export BASE_MODELS_DIR=$scratch/bases HF_HUB_OFFLINE=1
stage() { "$python" dev-scripts/check_full_size.py "$1" "$scratch"; }

# Each in a process of its own, whose memory is measured.
stage build
stage train
stage draw
echo "full size: ok"
