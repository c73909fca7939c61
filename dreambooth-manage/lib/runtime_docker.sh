# shellcheck shell=bash
# Instances and workers as containers. Sourced after containers.sh, plan.sh and workers.sh.
#
# Instances share two volumes: data (trainings, and the models where no store is named) and cache (models at hand, base
# models from the hub). A worker has no volume.

readonly FIRST_INSTANCE_ADDRESS=10

# What a start needs.
check_programs() {
  need_image "$NGINX_IMAGE"
  need_own_image dreambooth-api
}

prepare_runtime() {
  ensure_network
}

# leave_runtime [--remove-data]  what is left when all containers are gone
leave_runtime() {
  stop_redis "$@"
  leave_network
  if [[ ${1:-} == --remove-data ]]; then
    remove_volumes
    rm -rf "${DATA_DIR:?}"/{nginx,secrets}
  fi
}

# The address of the instance with that index, in the network of the containers.
instance_place() {
  printf '%s%s' "${SUBNET%0/24}" $((FIRST_INSTANCE_ADDRESS + $1))
}

# mac_of ADDRESS  always the same: its neighbours, nginx above all, know that of the container which had the address before,
# and would go on sending to it for half a minute.
mac_of() {
  local -a bytes
  IFS=. read -ra bytes <<<"$1"
  printf '02:42:%02x:%02x:%02x:%02x' "${bytes[@]}"
}

# What goes from the environment into an instance, by name only: the values are on no command line.
readonly INSTANCE_SETTINGS=(BASE_MODEL MODEL_STORE_URL CACHE_MAX_GB MODEL_MEMORY_GB BATCH_MEMORY_SHARE COMPILE_UNET THREADS UNFINISHED_MAX_GB
  TRUST_TENANT_HEADER CHECKPOINT_STORE SPARE_TRAINER TRAINING_POLICY LOG_LEVEL ENLIGHT_NODE_KEY HF_TOKEN HF_ENDPOINT HF_HUB_OFFLINE
  AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL_S3
  http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY)

# A checksum of what an instance started now would be told and made of.
instance_settings() {
  local name
  {
    "$DOCKER" image inspect --format '{{.Id}}' "$(image_of dreambooth-api)"
    for name in "${INSTANCE_SETTINGS[@]}" BASE_MODELS_DIR GOOGLE_APPLICATION_CREDENTIALS GRACE_S MAX_BODY_MB INSTANCE_MEMORY_MB OMP_NUM_THREADS; do
      printf '%s=%s\n' "$name" "${!name-}"
    done
  } | cksum | cut -d ' ' -f 1
}

# passed_on NAME…  fills PASSED with options for those that are set
passed_on() {
  local name
  PASSED=()
  for name in "$@"; do
    [[ -z ${!name-} ]] || PASSED+=(--env "$name")
  done
}

instance_memory_mb() {
  local total_kb
  if [[ -n $INSTANCE_MEMORY_MB ]]; then
    printf '%s' "$INSTANCE_MEMORY_MB"
    return
  fi
  read -r _ total_kb _ </proc/meminfo
  printf '%s' $((total_kb * 3 / 4096 / ${#PLAN[@]}))
}

# The options that give a container one GPU, the one that torch would call by that name here.
gpu_options() {
  local -a gpus
  mapfile -t gpus < <(list_gpus)
  if is_podman; then
    printf '%s\n' --device "nvidia.com/gpu=${gpus[${1#cuda:}]}"
  else
    printf '%s\n' --gpus "device=${gpus[${1#cuda:}]}"
  fi
}

start_instance() {
  local name=$1 host=$2 port=$3 device=$4 cores seen=cpu
  local -a options=() PASSED
  passed_on "${INSTANCE_SETTINGS[@]}"
  if [[ $device == cuda:* ]]; then
    seen=cuda:0 # whichever it is, the container sees one
    mapfile -t options < <(gpu_options "$device")
  else
    cores=$(($(nproc) / ${#PLAN[@]}))
    # Each instance would otherwise take all cores, and each wait for the others'.
    options+=(--env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 1 ? cores : 1))}")
  fi
  if [[ -n ${BASE_MODELS_DIR:-} ]]; then
    options+=(--volume "$(realpath "$BASE_MODELS_DIR"):/base-models:ro" --env BASE_MODELS_DIR=/base-models)
  fi
  if [[ -n ${GOOGLE_APPLICATION_CREDENTIALS:-} ]]; then
    options+=(--volume "$(realpath "$GOOGLE_APPLICATION_CREDENTIALS"):/run/google.json:ro" --env GOOGLE_APPLICATION_CREDENTIALS=/run/google.json)
  fi
  ensure_volume data
  ensure_volume cache
  launch "$name" "$INSTANCES_HOST" "$port" "$device" "$(instance_settings)" \
    --ip "$host" --mac-address "$(mac_of "$host")" --publish "$INSTANCES_HOST:$port:$port" --memory "$(instance_memory_mb)m" --stop-timeout $((GRACE_S + 45)) \
    --tmpfs /tmp:rw,exec,mode=1777 --volume "$CONTAINER_PREFIX-data:/data" --volume "$CONTAINER_PREFIX-cache:/cache" \
    --env PORT="$port" --env INSTANCE_NAME="$name" --env DEVICE="$seen" --env GRACE_S="$GRACE_S" --env MAX_BODY_MB="$MAX_BODY_MB" \
    "${options[@]}" "${PASSED[@]}" "$(image_of dreambooth-api)"
}

# Side by side, as their times of grace are long; 45 s more: to answer what was broken off, and to see the end of a training
# that had to be killed.
stop_instances() {
  stop_gracefully 45 "$@"
}

# Says yes while the worker's main loop does what it does every ten seconds.
readonly WORKER_CHECK="find /worker/workers -name '*.json' -mmin -$((STALE_AFTER_S / 60)) | grep -q ."

# start_worker INSTANCE HOST PORT DEVICE  starts the worker of an instance
start_worker() {
  local instance=$1 host=$2 port=$3 device=$4
  local -a PASSED
  passed_on ENLIGHT_NODE_KEY LOG_LEVEL http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY
  launch "$(worker_of "$instance")" - - "$device" - \
    --memory 1024m --stop-timeout $((GRACE_S + GIVE_BACK_S)) --tmpfs /tmp:rw,mode=1777 --tmpfs /worker:rw,mode=1777,size=16m \
    --health-cmd "$WORKER_CHECK" --health-interval 30s --health-retries 3 --health-start-period 30s \
    --env MAIN_API_URL="$MAIN_API_URL" --env INSTANCE_URL="http://$host:$port" --env WORKER_NAME="$(worker_name "$instance")" \
    --env DATA_DIR=/worker --env GRACE_S="$GRACE_S" "${PASSED[@]}" "$(image_of dreambooth-api)" python -m dreambooth_api.worker
}

# up, starting, stale or down
worker_state() {
  local container
  container=$(container_of "$1")
  if ! is_running "$1"; then
    printf 'down'
  elif "$DOCKER" exec "$container" sh -c "$WORKER_CHECK" 2>/dev/null; then
    printf 'up'
  elif "$DOCKER" exec "$container" sh -c 'ls /worker/workers/*.json' >/dev/null 2>&1; then
    printf 'stale'
  else
    printf 'starting'
  fi
}
