#!/usr/bin/env bash
# Starts the services of this machine, reachable from this machine only unless LISTEN says otherwise.
set -euo pipefail

export LISTEN=${LISTEN:-127.0.0.1}
exec "$(dirname "${BASH_SOURCE[0]}")/../dreambooth-manage/service_start.sh" "$@"
