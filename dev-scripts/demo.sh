#!/usr/bin/env bash
# Photos in, pictures of the subject out: starts everything, trains a subject from the bundled photos, draws it beside
# what the base model draws, cuts one picture out and enlarges it, and leaves the pictures in demo-output/.
# Services that were running before are used and left running; those it starts it stops, unless KEEP=1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=lib/demonstrating.sh
source dev-scripts/lib/demonstrating.sh

main() {
  dev-scripts/setup.sh
  # With all that runs up, what was left out of it was left out on purpose.
  if dev-scripts/status.sh >/dev/null; then
    echo "the services are already running; they are used as they are"
    trap 'leave_demo 130' INT
    trap 'leave_demo 143' TERM
  else
    # The upsampler takes memory, and is not asked for anything here.
    export WITHOUT=${WITHOUT-upsampler}
    start_for_demo
  fi
  run_client .venv/bin/python dev-scripts/demo.py --url "http://127.0.0.1:${MAIN_API_PORT:-8040}" \
    --key-file "${DATA_DIR:-data}/secrets/admin.key" --output demo-output
}

main "$@"
