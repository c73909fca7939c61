# shellcheck shell=bash
# Secrets, each made once: DATA_DIR/secrets/<name>, readable by the owner only. Sourced after settings.sh.

secret_file() {
  printf '%s/secrets/%s' "$DATA_DIR" "$1"
}

# Prints the secret of that name, which is made if there is none.
secret() {
  secret_in "$(secret_file "$1")"
}

# secret_in FILE  likewise, wherever it is kept
secret_in() {
  if [[ ! -s $1 ]]; then
    "$VENV_PYTHON" -IS -c 'import secrets; print(secrets.token_urlsafe(32))' | keep_secret "$1"
  fi
  cat "$1"
}

# keep_secret FILE  keeps what comes in there, readable by the owner only; whole or not at all
keep_secret() (
  umask 077
  mkdir -p "$(dirname "$1")"
  cat >"$1.new"
  [[ -s $1.new ]] && mv "$1.new" "$1"
)

# ensure_key NAME [node-keys] -- ARGUMENT…  makes a key of main-api, by `create` with those arguments, and keeps it as
# that secret, unless the one that is kept is valid.
ensure_key() {
  local name=$1 file made
  local -a group=()
  shift
  while [[ $1 != -- ]]; do
    group+=("$1")
    shift
  done
  shift
  file=$(secret_file "$name")
  if [[ -s $file ]]; then
    if main_api_keys "${group[@]}" verify <"$file" 2>/dev/null; then
      return
    fi
  fi
  made=$(main_api_keys "${group[@]}" create "$@") || fail "the key cannot be made in the database"
  "$VENV_PYTHON" -IS -c 'import json, sys; print(json.load(sys.stdin)["key"])' <<<"$made" | keep_secret "$file"
}

# Runs a command with MAIN_API_SETTINGS in its environment; on a command line everybody could read the secrets.
with_main_api_settings() (
  export "${MAIN_API_SETTINGS[@]}"
  "$@"
)

main_api_keys() {
  with_main_api_settings "$VENV_PYTHON" -m main_api.keys "$@"
}
