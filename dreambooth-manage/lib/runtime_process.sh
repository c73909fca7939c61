# shellcheck shell=bash
# shellcheck disable=SC2153  # DEVICE is a setting, device one instance's
# Instances as processes of this machine. Sourced after processes.sh.
# What the scripts ask of a runtime: plan_instances, start_instance, stop_instances, instance_state.

# Fills PLAN with one "name host port device" for each instance that is wanted.
plan_instances() {
  local gpus count index kind=gpu device
  PLAN=()
  gpus=$(count_gpus)
  ((gpus)) || kind=cpu
  count=${INSTANCES:-$((gpus ? gpus : 1))}
  ((count <= MOST_INSTANCES)) || fail "there are $count GPUs: set INSTANCES to $MOST_INSTANCES or fewer"
  ((BASE_PORT + count <= 65536)) || fail "BASE_PORT leaves no room for $count ports"
  for ((index = 0; index < count; index++)); do
    device=cpu
    if ((gpus)); then
      device=cuda:$((index % gpus))
    fi
    PLAN+=("$kind$index $INSTANCES_HOST $((BASE_PORT + index)) $device")
  done
}

count_gpus() {
  local -a found=()
  if [[ $DEVICE != cpu ]] && command -v nvidia-smi >/dev/null; then
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
      IFS=, read -ra found <<<"$CUDA_VISIBLE_DEVICES" # what torch counts as cuda:0, cuda:1 …
    else
      mapfile -t found < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+$')
    fi
  fi
  printf '%s' "${#found[@]}"
}

# What an instance reads from the environment beside its place, which refuse_other_plan looks after.
readonly INSTANCE_SETTINGS=(BASE_MODEL BASE_MODELS_DIR MODEL_STORE_URL CACHE_DIR CACHE_MAX_GB MODEL_MEMORY_GB THREADS UNFINISHED_MAX_GB TRUST_TENANT_HEADER CHECKPOINT_STORE GRACE_S MAX_BODY_MB LOG_LEVEL OMP_NUM_THREADS)

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

# up, starting or down
instance_state() {
  local name=$1
  if ! is_running "$name"; then
    printf 'down'
  elif "$VENV_PYTHON" -IS "$MANAGE_DIR/lib/probe.py" answers "http://$(reachable "$RECORD_HOST"):$RECORD_PORT/readyz"; then
    printf 'up'
  else
    printf 'starting'
  fi
}
