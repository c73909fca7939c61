# shellcheck shell=bash
# shellcheck disable=SC2153  # DEVICE is a setting, device one instance's
# Which instances are wanted, and whether what runs fits them. Sourced after processes.sh or containers.sh.

# Fills PLAN with one "name host port device" for each instance that is wanted.
plan_instances() {
  local count index kind=gpu device
  local -a gpus
  PLAN=()
  mapfile -t gpus < <(list_gpus)
  ((${#gpus[@]})) || kind=cpu
  count=${INSTANCES:-$((${#gpus[@]} ? ${#gpus[@]} * INSTANCES_PER_GPU : 1))}
  ((count <= MOST_INSTANCES)) || fail "there would be $count instances: set INSTANCES to $MOST_INSTANCES or fewer"
  ((BASE_PORT + count <= 65536)) || fail "BASE_PORT leaves no room for $count ports"
  for ((index = 0; index < count; index++)); do
    device=cpu
    if ((${#gpus[@]})); then
      device=cuda:$((index % ${#gpus[@]}))
    fi
    PLAN+=("$kind$index $(instance_place "$index") $((BASE_PORT + index)) $device")
  done
}

# The GPUs that may be used, one per line, in the order of torch's cuda:0, cuda:1 …
list_gpus() {
  local -a found=()
  if [[ $DEVICE != cpu ]] && command -v nvidia-smi >/dev/null; then
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
      IFS=, read -ra found <<<"$CUDA_VISIBLE_DEVICES"
    else
      mapfile -t found < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+$')
    fi
  fi
  ((${#found[@]} == 0)) || printf '%s\n' "${found[@]}"
}

# Fills WANTED with the names of the plan, and refuses to mix it with services started for another.
refuse_other_plan() {
  local entry name port
  local -A ports=([nginx]=$PORT)
  WANTED=()
  for entry in "${PLAN[@]}"; do
    read -r name _ port _ <<<"$entry"
    ports[$name]=$port
    WANTED+=("$name")
    if wants_workers; then
      WANTED+=("$(worker_of "$name")")
    fi
  done
  WANTED+=(nginx)
  while read -r name; do
    is_instance "$name" || [[ $name == nginx ]] || continue # a worker is where its instance is
    if is_running "$name" && [[ ${ports[$name]:-} != "$RECORD_PORT" ]]; then
      fail "$name runs on port $RECORD_PORT, which is not what these settings (INSTANCES, BASE_PORT, PORT, DEVICE) ask for: run service_stop.sh first"
    fi
  done < <(recorded_names)
}

is_instance() {
  [[ $1 =~ ^(cpu|gpu)[0-9]+$ ]]
}

# Stops those of the names that are workers, then those that are instances.
stop_workers_then_instances() {
  local name
  local -a workers=() instances=()
  for name in "$@"; do
    if is_worker "$name"; then
      workers+=("$name")
    elif is_instance "$name"; then
      instances+=("$name")
    fi
  done
  if ((${#workers[@]})); then
    stop_workers "${workers[@]}"
  fi
  if ((${#instances[@]})); then
    stop_instances "${instances[@]}"
  fi
}
