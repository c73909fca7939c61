#!/usr/bin/env bash
# The three image services at work: a photo cut out, a small picture enlarged by each engine, all on one sheet in
# demo-output/. Those of the services that run are used; the others are started, and stopped unless something ran before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=lib/demonstrating.sh
source dev-scripts/lib/demonstrating.sh

main() {
  dev-scripts/setup.sh
  dev-scripts/fetch-weights.sh
  export ONLY=bgrem,upsampler,realesrgan WITHOUT=''
  start_for_demo
  run_client .venv/bin/python dev-scripts/demo_images.py --output demo-output \
    --bgrem "http://127.0.0.1:${BGREM_PORT:-4000}" --upsampler "http://127.0.0.1:${UPSAMPLER_PORT:-4455}" \
    --realesrgan "http://127.0.0.1:${REALESRGAN_PORT:-11111}"
}

main "$@"
