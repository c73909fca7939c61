#!/usr/bin/env bash
# Everything that is checked without running the code: lint, format, types, the import law, shell scripts.
# Runs all of it and then says what failed. `check.sh --fix` mends what ruff can mend first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/.venv/bin
[[ -x $bin/ruff ]] || { echo "check.sh: there is no .venv yet; run dev-scripts/setup.sh" >&2; exit 1; }

if [[ ${1:-} == --fix ]]; then
  "$bin/ruff" check --fix-only --quiet .
  "$bin/ruff" format --quiet .
fi

failed=()
check() {
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

imports() {
  # Its banner and the contracts that hold are left out.
  "$bin/lint-imports" --no-cache >"$log" 2>&1 || { cat "$log"; return 1; }
  grep '^Contracts:' "$log"
}

shell_scripts() {
  local scripts=()
  while IFS= read -r -d '' script; do
    scripts+=("$script")
  done < <(find . \( -path ./.venv -o -path ./.git -o -path ./data \) -prune -o \( -name '*.sh' -o -path ./.ci/run \) -type f -print0)
  "$bin/shellcheck" --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

check "ruff check" "$bin/ruff" check --quiet .
check "ruff format" "$bin/ruff" format --check --quiet .
check "mypy --strict" "$bin/mypy" --strict ./*/src
check "import law" imports
check "shellcheck" shell_scripts
check "hadolint" "$bin/hadolint" ./*/Dockerfile dreambooth-api/base/Dockerfile

if ((${#failed[@]})); then
  printf 'check.sh: failed: %s\n' "$(IFS=,; echo "${failed[*]}")" >&2
  exit 1
fi
echo "check.sh: all good"
