# shellcheck shell=bash
# Instances and workers as processes of this machine. Sourced after processes.sh and workers.sh.

check_runtime() {
  :
}

# What a start needs.
check_programs() {
  find_nginx
}

prepare_runtime() {
  :
}

# dev-scripts start and stop the others.
join_services() {
  :
}

stop_services() {
  :
}

leave_runtime() {
  :
}

# The address of the instance with that index.
instance_place() {
  printf '%s' "$INSTANCES_HOST"
}

# What an instance reads from the environment beside its place, which refuse_other_plan looks after.
readonly INSTANCE_SETTINGS=(BASE_MODEL BASE_MODELS_DIR MODEL_STORE_URL CACHE_DIR CACHE_MAX_GB MODEL_MEMORY_GB BATCH_MEMORY_SHARE COMPILE_UNET THREADS UNFINISHED_MAX_GB TRUST_TENANT_HEADER CHECKPOINT_STORE SPARE_TRAINER TRAINING_POLICY GRACE_S MAX_BODY_MB LOG_LEVEL OMP_NUM_THREADS)

# A checksum of what an instance started now would be told.
instance_settings() {
  local name
  for name in "${INSTANCE_SETTINGS[@]}"; do
    printf '%s=%s\n' "$name" "${!name-}"
  done | cksum | cut -d ' ' -f 1
}

start_instance() {
  local name=$1 host=$2 port=$3 device=$4 cores
  cores=$(($(nproc) / ${#PLAN[@]}))
  # OMP_NUM_THREADS: on the CPU each instance would otherwise take all cores, and each wait for the others'.
  start_detached "$name" "$host" "$port" "$device" "$(instance_settings)" \
    env HOST="$host" PORT="$port" INSTANCE_NAME="$name" DEVICE="$device" \
    DATA_DIR="$DATA_DIR" GRACE_S="$GRACE_S" MAX_BODY_MB="$MAX_BODY_MB" \
    OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > 1 ? cores : 1))}" \
    "$VENV_PYTHON" -m dreambooth_api
}

# Together, so that their times of grace run side by side. On TERM an instance takes no more work, gives what is in
# flight the GRACE_S that it was started with, and then needs some seconds: to answer what it broke off, and to see the
# end of a training that had to be killed.
stop_instances() {
  stop_gracefully 45 "$@"
}

# start_worker INSTANCE HOST PORT DEVICE  starts the worker of an instance
start_worker() {
  local instance=$1 host=$2 port=$3 device=$4
  start_detached "$(worker_of "$instance")" - - "$device" - \
    env MAIN_API_URL="$MAIN_API_URL" INSTANCE_URL="http://$(reachable "$host"):$port" WORKER_NAME="$(worker_name "$instance")" \
    DATA_DIR="$DATA_DIR" GRACE_S="$GRACE_S" "$VENV_PYTHON" -m dreambooth_api.worker
}

# up, starting, stale or down
worker_state() {
  local file written
  if ! is_running "$1"; then
    printf 'down'
    return
  fi
  for file in "$DATA_DIR"/workers/*-"${1#worker-}".json; do
    # Another worker may have had the name before.
    grep -qs "\"pid\": $RECORD_PID\b" "$file" || continue
    written=$(stat -c %Y "$file" 2>/dev/null) || continue
    if (($(date +%s) - written > STALE_AFTER_S)); then
      printf 'stale'
    else
      printf 'up'
    fi
    return
  done
  printf 'starting'
}
