#!/usr/bin/env bash
# Runs main-api in the foreground with the settings in main-api/main.env; Ctrl-C ends it.
# main.env.example tells what can be set. What the environment sets already goes first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly settings=main-api/main.env
[[ -x .venv/bin/python ]] || { echo "start_service.sh: there is no .venv yet; run dev-scripts/setup.sh" >&2; exit 1; }
[[ -f $settings ]] || { echo "start_service.sh: there is no $settings; copy main-api/main.env.example and fill it in" >&2; exit 1; }

while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^([A-Z_][A-Z0-9_]*)=(.*)$ ]] || continue
    name=${BASH_REMATCH[1]}
    [[ -v $name ]] || export "$name=${BASH_REMATCH[2]}"
done <"$settings"

exec .venv/bin/python -m main_api
