#!/usr/bin/env bash
# Runs a part of main-api in the foreground with the settings in main-api/main.env; Ctrl-C ends it.
#
#   start_service.sh                 the API
#   start_service.sh background      chains, forwards, webhooks, deletions
#   start_service.sh keys …          makes, lists and revokes keys, sets quotas: `keys --help`
#
# main.env.example tells what can be set. What the environment sets already goes first; MAIN_ENV is another file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly settings=${MAIN_ENV:-main-api/main.env}
case ${1:-} in
  '') module=main_api ;;
  background | keys) module=main_api.$1; shift ;;
  -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "main-api/start_service.sh"; exit 0 ;;
  *) echo "start_service.sh: there is no part called $1; see --help" >&2; exit 2 ;;
esac
[[ -x .venv/bin/python ]] || { echo "start_service.sh: there is no .venv yet; run dev-scripts/setup.sh" >&2; exit 1; }
[[ -f $settings ]] || { echo "start_service.sh: there is no $settings; copy main-api/main.env.example and fill it in" >&2; exit 1; }

while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^([A-Z_][A-Z0-9_]*)=(.*)$ ]] || continue
    name=${BASH_REMATCH[1]}
    [[ -v $name ]] || export "$name=${BASH_REMATCH[2]}"
done <"$settings"

exec .venv/bin/python -m "$module" "$@"
