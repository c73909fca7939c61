# shellcheck shell=bash
# Keyfile and passwords: CLUSTER_DIR/secrets, each made once and readable by its owner only. Sourced after settings.sh.
# They go to the servers by standard input, so that no command line and no `inspect` shows one.

readonly USERS=(root backup main-api)

secret_file() {
  printf '%s/secrets/%s' "$CLUSTER_DIR" "$1"
}

# make_secret NAME BYTES  unless there is one; whole or not at all
make_secret() (
  umask 077
  file=$(secret_file "$1")
  if [[ ! -s $file ]]; then
    mkdir -p "$(dirname "$file")"
    head -c "$2" /dev/urandom | base64 -w 0 | tr -d '/+=' >"$file.new"
    sync "$file.new"
    mv "$file.new" "$file"
  fi
)

# 32 bytes for a password; of the keyfile mongod takes 6 to 1024 characters.
make_secrets() {
  local user
  for user in "${USERS[@]}"; do
    make_secret "$user.password" 32
  done
  make_secret keyfile 567
  write_main_api_url
}

password_of() {
  local password
  password=$(cat "$(secret_file "$1.password")" 2>/dev/null) || true
  # It also stands in a URL and in JSON.
  [[ $password =~ ^[A-Za-z0-9._~-]{16,256}$ ]] \
    || fail "$(secret_file "$1.password") must be one line of 16 to 256 of A-Z a-z 0-9 . _ ~ -"
  printf '%s' "$password"
}

# What main-api takes as MONGO_URL, in a file: with both routers, so that one may be away.
write_main_api_url() (
  umask 077
  address=$LISTEN
  [[ $address != 0.0.0.0 ]] || address=127.0.0.1
  [[ $address != '[::]' ]] || address='[::1]'
  file=$(secret_file main-api.url)
  printf 'mongodb://main-api:%s@%s:%s,%s:%s/?authSource=admin\n' \
    "$(password_of main-api)" "$address" "$ROUTER_1_PORT" "$address" "$ROUTER_2_PORT" >"$file.new"
  mv "$file.new" "$file"
)
