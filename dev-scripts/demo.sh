#!/usr/bin/env bash
# Photos in, pictures of the subject out: starts everything, trains a subject from the bundled photos, draws it beside
# what the base model draws, cuts one picture out and enlarges it, and leaves the pictures in demo-output/.
# Services that were running before are used and left running; those it starts it stops, unless KEEP=1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DATA_DIR=${DATA_DIR:-data}
client=''

main() {
  trap 'leave 130' INT
  trap 'leave 143' TERM
  dev-scripts/setup.sh
  start_services
  # In the background, because bash would wait for its end before it follows a trap.
  .venv/bin/python dev-scripts/demo.py --url "http://127.0.0.1:${MAIN_API_PORT:-8040}" \
    --key-file "$DATA_DIR/secrets/admin.key" --output demo-output &
  client=$!
  wait "$client"
}

start_services() {
  local status=0
  dev-scripts/status.sh >/dev/null || status=$?
  if ((status == 0)); then
    echo "the services are already running; they are used as they are"
    return
  fi
  # With some of them up they are somebody's: what is missing is started, and all are left.
  if ((status == 3)) && [[ ${KEEP:-} != 1 ]]; then
    trap stop_services EXIT
  fi
  # It takes memory, and is not asked for anything here.
  WITHOUT=${WITHOUT-upsampler} dev-scripts/start.sh
}

stop_services() {
  trap '' INT TERM # a second Ctrl-C must not leave half of them running
  echo "stopping the services"
  dev-scripts/stop.sh >/dev/null
}

leave() {
  if [[ -n $client ]]; then
    kill -s TERM "$client" 2>/dev/null || true # it cancels its training
    wait "$client" || true
  fi
  exit "$1"
}

main "$@"
