# shellcheck shell=bash
# Certificates for REDIS_TLS=on. Sourced after scripts.sh.
#
# They lie in one folder for all servers of a data folder: ca.crt and ca.key, server.crt and server.key. What is missing
# is made; put ca.crt, server.crt and server.key of your own authority there, and those are used.

readonly CA_DAYS=3650 SERVER_DAYS=397 RENEW_S=$((30 * 86400))

# ensure_certificates FOLDER NAME…  a certificate that holds for these names and addresses, localhost among them
ensure_certificates() (
  umask 077
  tls=$1
  shift
  names=$(subject_names "$@")
  mkdir -p "$tls"
  exec 8>"$tls/lock" # cache, queue and cluster share the folder, and each has a lock of its own
  flock -w 60 8 || fail "the certificates are being made by another"
  if [[ -s $tls/server.crt && ! -s $tls/ca.key ]]; then
    [[ -s $tls/ca.crt && -s $tls/server.key ]] || fail "$tls has a server.crt, but no ca.crt or no server.key"
    openssl x509 -in "$tls/server.crt" -noout -checkend 0 >/dev/null || fail "$tls/server.crt has expired"
    return
  fi
  if [[ ! -s $tls/ca.crt || ! -s $tls/ca.key ]]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$CA_DAYS" \
      -subj "/CN=Enlight Redis authority" -keyout "$tls/ca.key.new" -out "$tls/ca.crt.new" 2>/dev/null
    mv "$tls/ca.key.new" "$tls/ca.key"
    mv "$tls/ca.crt.new" "$tls/ca.crt"
    rm -f "$tls/server.crt"
  fi
  if [[ -s $tls/server.crt && -f $tls/server.names && $(<"$tls/server.names") == "$names" ]] \
    && openssl x509 -in "$tls/server.crt" -noout -checkend "$RENEW_S" >/dev/null; then
    return
  fi
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=Enlight Redis" \
    -keyout "$tls/server.key.new" -out "$tls/server.csr" 2>/dev/null
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" >"$tls/server.ext"
  openssl x509 -req -in "$tls/server.csr" -CA "$tls/ca.crt" -CAkey "$tls/ca.key" -CAcreateserial -days "$SERVER_DAYS" \
    -extfile "$tls/server.ext" -out "$tls/server.crt.new" 2>/dev/null
  # The names last: without them both are made again.
  rm -f "$tls/server.csr" "$tls/server.ext" "$tls/server.names"
  mv "$tls/server.key.new" "$tls/server.key"
  mv "$tls/server.crt.new" "$tls/server.crt"
  printf '%s\n' "$names" >"$tls/server.names"
)

subject_names() {
  local name names=DNS:localhost,IP:127.0.0.1
  for name in "$@"; do
    if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then
      names+=,IP:$name
    else
      names+=,DNS:$name
    fi
  done
  printf '%s' "$names"
}

# give_certificates TLS_FOLDER FOLDER  a server's own copy, which it can read whoever it runs as
give_certificates() (
  umask 077
  mkdir -p "$2/tls"
  exec 8>"$1/lock"
  flock -w 60 8 || fail "the certificates are being made by another"
  cp "$1/ca.crt" "$1/server.crt" "$1/server.key" "$2/tls/"
)

# tls_lines FOLDER PORT  for redis.conf: TLS only. A client needs the authority's certificate and a password, none of its own.
tls_lines() {
  printf 'port 0\ntls-port %s\ntls-auth-clients no\ntls-replication yes\n' "$2"
  printf 'tls-ca-cert-file %s\n' "$(redis_quoted "$1/tls/ca.crt")"
  printf 'tls-cert-file %s\ntls-key-file %s\n' "$(redis_quoted "$1/tls/server.crt")" "$(redis_quoted "$1/tls/server.key")"
}

# check_tls_program SERVER  A redis-server without TLS names the first line that it does not know: the first of these two.
check_tls_program() {
  local complaint
  complaint=$(printf 'tls-session-caching yes\nno-such-line yes\n' | "$1" - 2>&1) || true
  if [[ $complaint == *tls-session-caching* ]]; then
    fail "REDIS_TLS=on: $1 was built without TLS. Set REDIS_SERVER to one that has it (Debian's has), or ENLIGHT_RUNTIME=docker"
  fi
}
