#!/usr/bin/env bash
# The three image services at work: a photo cut out, a small picture enlarged by each engine, all on one sheet in
# demo-output/. Services that answer on their ports are used and left running; the others are started and stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LOGS=data/logs
READY_WITHIN_S=300
declare -A PORTS=([bgrem]=${BGREM_PORT:-4000} [upsampler]=${UPSAMPLER_PORT:-4455} [realesrgan]=${REALESRGAN_PORT:-11111})
declare -A STARTED=() # pids by name

main() {
  trap stop_started EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  dev-scripts/setup.sh
  dev-scripts/fetch-weights.sh
  mkdir -p "$LOGS"
  local name
  for name in "${!PORTS[@]}"; do
    start "$name"
  done
  for name in "${!PORTS[@]}"; do
    wait_until_ready "$name"
  done
  .venv/bin/python dev-scripts/demo_images.py --output demo-output \
    --bgrem "http://127.0.0.1:${PORTS[bgrem]}" --upsampler "http://127.0.0.1:${PORTS[upsampler]}" \
    --realesrgan "http://127.0.0.1:${PORTS[realesrgan]}" &
  wait $! # in the background, because bash would wait for its end before it follows a trap
}

is_ready() {
  .venv/bin/python -IS -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' \
    "http://127.0.0.1:${PORTS[$1]}/readyz" 2>/dev/null
}

start() {
  if is_ready "$1"; then
    echo "$1 is already running on port ${PORTS[$1]}"
    return
  fi
  echo "starting $1 on port ${PORTS[$1]}"
  # In a session of its own: Ctrl-C is for this script, which then ends them.
  PORT=${PORTS[$1]} setsid "dev-scripts/start-$1.sh" >"$LOGS/$1.log" 2>&1 &
  STARTED[$1]=$!
}

wait_until_ready() {
  local deadline=$((SECONDS + READY_WITHIN_S))
  until is_ready "$1"; do
    if [[ -n ${STARTED[$1]:-} ]] && ! kill -0 "${STARTED[$1]}" 2>/dev/null; then
      tail -n 5 "$LOGS/$1.log" >&2
      echo "demo-images.sh: $1 did not start; its log is $LOGS/$1.log" >&2
      exit 1
    fi
    if ((SECONDS > deadline)); then
      echo "demo-images.sh: $1 is not ready after $READY_WITHIN_S s; its log is $LOGS/$1.log" >&2
      exit 1
    fi
    sleep 0.5
  done
}

stop_started() {
  trap '' INT TERM # a second Ctrl-C must not leave half of them running
  local job
  for job in $(jobs -p); do
    kill -s TERM "$job" 2>/dev/null || true
  done
  wait || true
}

main "$@"
