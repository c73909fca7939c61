#!/usr/bin/env bash
# Prints which services of this machine run.
set -euo pipefail

exec "$(dirname "${BASH_SOURCE[0]}")/../dreambooth-manage/service_status.sh" "$@"
