#!/usr/bin/env bash
# The model cache of this machine by hand, beside running services or without:
#   cache.sh list                    what is cached, least recently used first
#   cache.sh warm  MODEL[@VERSION]…  fetches models that are not here
#   cache.sh pin   MODEL[@VERSION]…  fetches models and never evicts them
#   cache.sh unpin MODEL[@VERSION]…  lets pinned models be evicted again
#   cache.sh evict MODEL[@VERSION]…  gives their room back, pinned or not
# Settings are the services', from the environment: DATA_DIR, MODEL_STORE_URL, CACHE_DIR. With containers
# (ENLIGHT_RUNTIME=docker) the first instance is asked, which must run.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"

if (($# == 0)) || [[ $1 == --help || $1 == -h ]]; then
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  (($#)) || exit 2
  exit 0
fi
if [[ $ENLIGHT_RUNTIME == docker ]]; then
  # shellcheck source-path=SCRIPTDIR source=lib/containers.sh
  source "$MANAGE_DIR/lib/containers.sh"
  check_runtime
  instance=$(recorded_names | grep -E '^(cpu|gpu)[0-9]+$' | head -n 1) || fail "no instance is there: run service_start.sh first"
  exec "$DOCKER" exec "$(container_of "$instance")" python -m dreambooth_api.cache "$@"
fi
[[ -x $VENV_PYTHON ]] || fail "there is no Python environment yet: run dev-scripts/setup.sh first"
prepare_data_dir
exec env DATA_DIR="$DATA_DIR" "$VENV_PYTHON" -m dreambooth_api.cache "$@"
