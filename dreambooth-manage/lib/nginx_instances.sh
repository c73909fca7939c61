# shellcheck shell=bash
# The parts of nginx's configuration that depend on which instances there are. Sourced; needs nothing else.
#
# An instance is written "name host port": "cpu0 127.0.0.1 5000" for a process, "gpu1 dreambooth-api-1 5000" for a container.

# upstreams.conf from the instances given, one per argument.
write_upstreams() {
  local instance name host port index other
  local -a all=("$@")

  cat <<'CONF'
# Written by service_start; changes here are lost.

# Drawing, least busy instance first. One that failed twice within a second gets nothing for a second
# (default: once, 10 s): a refused connection costs little here, and an instance started again is used at once.
upstream draw {
  zone draw 64k;                     # shared by the workers: without it each counts its own connections only
  least_conn;
CONF
  for instance in "${all[@]}"; do
    read -r name host port <<<"$instance"
    printf '  server %s:%s max_fails=2 fail_timeout=1s;  # %s\n' "$host" "$port" "$name"
  done
  cat <<'CONF'
  keepalive 16;                      # idle connections kept by each worker
  keepalive_timeout 60s;             # the default; below the instances' 75 s, so that they never close one being used
}

# Drawing with X-Model-Id: the same model comes to the same instance, and few move when an instance comes or goes.
upstream draw_by_model {
  zone draw_by_model 64k;
  hash $http_x_model_id consistent;
CONF
  for instance in "${all[@]}"; do
    read -r name host port <<<"$instance"
    printf '  server %s:%s max_fails=2 fail_timeout=1s;\n' "$host" "$port"
  done
  printf '  keepalive 16;\n  keepalive_timeout 60s;\n}\n'

  cat <<'CONF'

# Training. max_fails=0: a training that went wrong says nothing about the next. The other instances are there for
# one case: the connection was refused, so nothing was sent. One that answers 503 (busy) is left by train.conf.
CONF
  for index in "${!all[@]}"; do
    read -r name host port <<<"${all[index]}"
    printf 'upstream train_%s {\n  server %s:%s max_fails=0;  # %s\n' "$index" "$host" "$port" "$name"
    for other in "${all[@]:index+1}" "${all[@]:0:index}"; do
      read -r _ host port <<<"$other"
      printf '  server %s:%s max_fails=0 backup;\n' "$host" "$port"
    done
    printf '  keepalive 4;\n}\n'
  done

  printf '\n# One instance and no other: run ids and metrics.\n'
  for instance in "${all[@]}"; do
    read -r name host port <<<"$instance"
    printf 'upstream instance_%s {\n  server %s:%s max_fails=0;\n  keepalive 8;\n}\n' "$name" "$host" "$port"
  done

  cat <<'CONF'

# A run id begins with the name of its instance; one that is not here any more is answered by any.
map $uri $run_upstream {
CONF
  for instance in "${all[@]}"; do
    read -r name _ _ <<<"$instance"
    printf '  ~^/train/%s- instance_%s;\n' "$name" "$name"
  done
  cat <<'CONF'
  default draw;
}
map $instance $instance_upstream {
CONF
  for instance in "${all[@]}"; do
    read -r name _ _ <<<"$instance"
    printf '  %s instance_%s;\n' "$name" "$name"
  done
  printf '  default "";\n}\n'
}

# train.conf for so many instances.
write_train_locations() {
  local count=$1 timeout_s=$2 index

  cat <<'CONF'
# Written by service_start; changes here are lost.

# A training asks the instances one after the other: 503 means that nothing began there. The last one's 503, with its
# Retry-After, goes to the client. Anything else, a connection lost in the middle above all, ends the walk.
CONF
  for ((index = 0; index < count; index++)); do
    if ((index == 0)); then
      printf 'location = /train {\n'
    else
      printf 'location @train_%s {\n' "$index"
    fi
    if ((index + 1 < count)); then
      printf '  proxy_intercept_errors on;         # default: off\n'
      printf '  error_page 503 = @train_%s;\n' $((index + 1))
      # Not problem_pages.conf: a status named here is also taken from the instance, and its 400 has more to say.
      printf '  error_page 413 502 504 /__problem;\n'
    fi
    # Without Prefer: respond-async the answer comes when the model is stored.
    printf '  proxy_read_timeout %ss;\n  proxy_pass http://train_%s;\n}\n' "$timeout_s" "$index"
  done

  cat <<'CONF'

# State and events of one run, at its own instance. When that is down any other answers, from the state file.
location /train/ {
  error_page 418 = @run_once;
  error_page 502 504 = @run_anywhere;
  include problem_pages.conf;
  if ($request_method !~ "^(GET|HEAD)$") {
    return 418;
  }
  proxy_buffering off;               # default: on, which would hold events back
  proxy_read_timeout 300s;           # default: 60s; event streams send a comment every 15 s
  proxy_pass http://$run_upstream;
}
# Its cancel and its lease: at its own instance, which may have done it before it was lost.
location @run_once {
  proxy_next_upstream off;
  proxy_read_timeout 300s;           # a run that is canceled may write its checkpoint first
  proxy_pass http://$run_upstream;
}
location @run_anywhere {
  proxy_buffering off;
  proxy_read_timeout 300s;
  proxy_pass http://draw;
}
CONF
}
