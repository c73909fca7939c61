#!/usr/bin/env bash
# Stops the services of this machine.
set -euo pipefail

exec "$(dirname "${BASH_SOURCE[0]}")/../dreambooth-manage/service_stop.sh" "$@"
