# shellcheck shell=bash
# Writes nginx's configuration, the same one for a process and for a container. Sourced by nginx.sh or nginx_container.sh,
# which say where it listens and how it is checked.

NGINX_CONF=nginx.conf
LEFT_OUT='' # names of instances that nginx is to send nothing

# fill_template FILE NAME…  prints the file with ${NAME} replaced for the names given, and for no other.
fill_template() {
  local text name
  text=$(<"$1")
  for name in "${@:2}"; do
    text=${text//"\${$name}"/"${!name}"}
  done
  printf '%s\n' "$text"
}

# Writes nginx's configuration for PLAN into the folder given; LISTEN, PORT and the rest as the caller has set them.
write_nginx_conf() {
  local folder=$1 entry
  local -a served=()
  for entry in "${PLAN[@]}"; do
    [[ " $LEFT_OUT " == *" ${entry%% *} "* ]] || served+=("${entry% *}")
  done
  mkdir -p "$folder" "$DATA_DIR/nginx/tmp"
  cp "$MANAGE_DIR"/templates/{proxy,problem_pages}.conf "$folder"
  write_upstreams "${served[@]}" >"$folder/upstreams.conf"
  write_train_locations "${#served[@]}" "$TRAIN_TIMEOUT_S" >"$folder/train.conf"
  fill_template "$MANAGE_DIR/templates/nginx.conf.template" LISTEN PORT MAX_BODY_MB TRAIN_TIMEOUT_S DRAW_TIMEOUT_S \
    NGINX_WORKERS NGINX_USER_DIRECTIVE ERROR_LOG ACCESS_LOG KEEPALIVE_MIN_DIRECTIVE >"$folder/$NGINX_CONF"
}

# keepalive_min_directive VERSION  without it a worker that leaves at a reload closes clients' idle connections at once,
# and one that is just being used for the next request is lost. nginx knows it since 1.27.4.
keepalive_min_directive() {
  if [[ $1 =~ ([0-9]+)\.([0-9]+)\.([0-9]+) ]] \
    && ((BASH_REMATCH[1] * 1000000 + BASH_REMATCH[2] * 1000 + BASH_REMATCH[3] >= 1027004)); then
    printf 'keepalive_min_timeout 1s;'
  fi
}

# Writes the configuration beside the one in use and puts it in place only if nginx accepts it.
configure_nginx() {
  local folder=$DATA_DIR/nginx said
  rm -rf "$folder/conf.new"
  write_runtime_nginx_conf "$folder/conf.new"
  said=$(check_nginx_conf conf.new 2>&1) || fail "nginx refuses its configuration:"$'\n'"$said"
  NGINX_CHANGED=1
  if diff -rq "$folder/conf" "$folder/conf.new" >/dev/null 2>&1; then
    NGINX_CHANGED=''
  fi
  rm -rf "$folder/conf"
  mv "$folder/conf.new" "$folder/conf"
}

# Starts nginx, or has the running one read a changed configuration.
start_nginx() {
  if ! is_running nginx; then
    launch_nginx
  elif [[ -n $NGINX_CHANGED ]]; then
    reload_nginx
  fi
}

# leave_out NAME…  has the running nginx send nothing to these instances; to all when there are none
leave_out() {
  LEFT_OUT=$*
  configure_nginx
  start_nginx
}

# up, starting or down; with readyz, up only once nginx finds an instance that is ready
nginx_state() {
  if ! is_running nginx; then
    printf 'down'
  elif answers "http://$(reachable "$RECORD_HOST"):$RECORD_PORT/${1:-nginx-health}"; then
    printf 'up'
  else
    printf 'starting'
  fi
}
