#!/usr/bin/env bash
# Starts the services of this machine.
set -euo pipefail

exec "$(dirname "${BASH_SOURCE[0]}")/../dreambooth-manage/service_start.sh" "$@"
