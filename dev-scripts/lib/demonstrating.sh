# shellcheck shell=bash
# What the demos have in common: services for as long as they last, and a client that Ctrl-C reaches. Sourced by demo.sh
# and demo-images.sh, at the repository's root.

CLIENT=''

# start_for_demo  has start.sh, which reads ONLY and WITHOUT, start what is missing, and what runs then stopped at the
# end; unless some of it ran before, which makes all of it somebody's, or KEEP=1.
start_for_demo() {
  local status=0
  trap 'leave_demo 130' INT
  trap 'leave_demo 143' TERM
  dev-scripts/status.sh >/dev/null || status=$?
  if ((status == 3)) && [[ ${KEEP:-} != 1 ]]; then
    trap stop_after_demo EXIT
  fi
  dev-scripts/start.sh
}

stop_after_demo() {
  trap '' INT TERM # a second Ctrl-C must not leave half of them running
  echo "stopping the services"
  dev-scripts/stop.sh >/dev/null
}

# run_client COMMAND…  in the background, because bash would wait for its end before it follows a trap
run_client() {
  "$@" &
  CLIENT=$!
  wait "$CLIENT"
}

leave_demo() {
  if [[ -n $CLIENT ]]; then
    kill -s TERM "$CLIENT" 2>/dev/null || true # it cancels what it has asked for
    # Not by `wait`: after the one that the trap broke off it was seen to wait for ever for a child that was gone.
    while kill -0 "$CLIENT" 2>/dev/null; do
      sleep 0.2
    done
  fi
  exit "$1"
}
