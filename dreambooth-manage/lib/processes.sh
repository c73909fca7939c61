# shellcheck shell=bash
# shellcheck disable=SC2034  # what read_record sets is read by those who source this file
# Processes that outlive the script which started them. Sourced after settings.sh.
#
# Each is the leader of a session of its own, and has a file DATA_DIR/$RECORDS/<name>.pid with one line:
#     <pid> <start time> <host> <port> <device> <grace> <settings> <boot>
# It is stopped with the grace in seconds that it was started with; the settings are a checksum of the others.
# The start time (clock ticks since boot, /proc/<pid>/stat) tells our process from another that got its number later,
# and the boot's id from one that has it since the machine was started again.

RUNS_AS=pid
BOOT=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null) || BOOT=-

# Where a service's output goes.
log_of() {
  printf '%s/logs/%s.log' "$DATA_DIR" "$1"
}

pid_file() {
  printf '%s/%s/%s.pid' "$DATA_DIR" "$RECORDS" "$1"
}

# Reads /proc/<pid>/stat into STAT_STATE, STAT_SESSION and STAT_STARTED; fails when there is no such process.
read_stat() {
  local line
  local -a fields
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -ra fields <<<"${line##*) }" # the name, in brackets before the state, may hold spaces
  STAT_STATE=${fields[0]} STAT_SESSION=${fields[3]} STAT_STARTED=${fields[19]}
}

# Whether a process has that number and is more than a remainder that its parent has not collected.
is_alive() {
  read_stat "$1" && [[ $STAT_STATE != [ZX] ]]
}

# Names of everything that has a pid file, sorted.
recorded_names() {
  local file
  for file in "$DATA_DIR/$RECORDS"/*.pid; do
    [[ -e $file ]] && basename "$file" .pid
  done
  return 0
}

# Reads a pid file into RECORD_PID, RECORD_STARTED, RECORD_HOST, RECORD_PORT, RECORD_DEVICE, RECORD_GRACE,
# RECORD_SETTINGS and RECORD_BOOT.
read_record() {
  local file
  file=$(pid_file "$1")
  RECORD_PID='' RECORD_STARTED='' RECORD_HOST='' RECORD_PORT='' RECORD_DEVICE='' RECORD_GRACE='' RECORD_SETTINGS=''
  RECORD_BOOT=''
  [[ -r $file ]] || return 1
  read -r RECORD_PID RECORD_STARTED RECORD_HOST RECORD_PORT RECORD_DEVICE RECORD_GRACE RECORD_SETTINGS RECORD_BOOT \
    <"$file" || true
  [[ $RECORD_PID =~ ^[1-9][0-9]*$ ]]
}

# Whether the process that the record speaks of is there.
is_running() {
  read_record "$1" && is_of_this_boot && is_alive "$RECORD_PID" && [[ $STAT_STARTED == "$RECORD_STARTED" ]]
}

# Whether what was read into RECORD_… may still run.
is_of_this_boot() {
  [[ ${RECORD_BOOT:-$BOOT} == "$BOOT" ]]
}

# Pids of the record's session: the process and all it started, also when the process itself is gone.
session_pids() {
  local pid
  read_record "$1" && is_of_this_boot || return 0
  if is_alive "$RECORD_PID" && [[ $STAT_STARTED != "$RECORD_STARTED" ]]; then
    return 0 # the number belongs to another process now, and with it the session
  fi
  for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    if is_alive "$pid" && [[ $STAT_SESSION == "$RECORD_PID" ]]; then
      printf '%s\n' "$pid"
    fi
  done
}

# start_detached NAME HOST PORT DEVICE SETTINGS COMMAND…  starts the command as the leader of a new session and records it.
start_detached() {
  local name=$1 host=$2 port=$3 device=$4 settings=$5 log pid traps interrupted=''
  shift 5
  log=$(log_of "$name")
  # A signal between the start and the record would leave a process that nobody knows of: it is followed afterwards.
  traps=$(trap -p INT TERM)
  trap 'interrupted=INT' INT
  trap 'interrupted=TERM' TERM
  # In the background of a script a process leads no group, so setsid keeps the number.
  setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
  pid=$!
  STAT_STARTED=0 # if it is gone already
  read_stat "$pid" || true
  printf '%s %s %s %s %s %s %s %s\n' "$pid" "$STAT_STARTED" "$host" "$port" "$device" "$GRACE_S" "$settings" "$BOOT" \
    >"$(pid_file "$name")"
  trap - INT TERM
  eval "$traps"
  if [[ -n $interrupted ]]; then
    kill -s "$interrupted" $$
  fi
}

# stop_recorded SIGNAL SECONDS NAME…  asks the leaders, waits so long, then kills what is left of their sessions.
stop_recorded() {
  local signal=$1 seconds=$2 name deadline
  shift 2
  for name in "$@"; do
    if is_running "$name"; then
      kill -s "$signal" "$RECORD_PID" 2>/dev/null || true
    fi
  done
  deadline=$((SECONDS + seconds))
  for name in "$@"; do
    while is_running "$name" && ((SECONDS < deadline)); do
      sleep 0.2
    done
    if is_running "$name"; then
      say "$name did not end within $seconds s: killed"
    fi
    kill_session "$name"
    rm -f "$(pid_file "$name")"
  done
}

# stop_gracefully SECONDS NAME…  TERM, and the longest grace that any was started with, and so many seconds more
stop_gracefully() {
  local more=$1
  shift
  stop_recorded TERM $(($(longest_grace "$@") + more)) "$@"
}

# Ends what is left of a session: a leader past its time, or workers and children of one that died.
kill_session() {
  local name=$1 tries
  local -a pids
  for ((tries = 0; tries < 50; tries++)); do
    mapfile -t pids < <(session_pids "$name")
    ((${#pids[@]})) || return 0
    kill -s KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.1
  done
  fail "$name left processes that cannot be killed: ${pids[*]}"
}

# Of a service that died, workers may be left that still hold its port.
clear_up() {
  kill_session "$1"
  rm -f "$(pid_file "$1")"
}

# show_log NAME LINES  where its output is, and the end of it
show_log() {
  printf 'The end of %s:\n' "$(log_of "$1")"
  tail -n "$2" "$(log_of "$1")"
}

# Whether a GET of the address answers 2xx.
answers() {
  "$VENV_PYTHON" -IS "$MANAGE_DIR/lib/probe.py" answers "$1"
}

# taken_ports HOST PORT…  prints those that cannot be listened on; the status says whether there are any
taken_ports() {
  ! "$VENV_PYTHON" -IS "$MANAGE_DIR/lib/probe.py" free "$@"
}
