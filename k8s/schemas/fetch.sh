#!/usr/bin/env bash
# Fetches the schemas of the custom resources (KEDA, the Prometheus operator, External Secrets), for the tests: 40 MB
# into node_modules beside this. Does nothing where they are there. Wants node 20 or newer, and npm.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "fetch.sh: there is no option $1; see --help" >&2; exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")"
command -v npm >/dev/null || { echo "fetch.sh: npm is missing: install nodejs 20 or newer" >&2; exit 1; }
# npm writes this file last.
if [[ node_modules/.package-lock.json -nt package-lock.json ]]; then
  exit
fi
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
