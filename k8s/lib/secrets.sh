# shellcheck shell=bash
# Secrets in a cluster, which pass through pipes and never stand on a command line. Sourced after NAMESPACE is set.

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Ends with a reason unless kubectl is here, reaches a cluster, and the namespace is there.
check_cluster() {
  command -v kubectl >/dev/null || fail "kubectl is missing; install it (kubernetes.io/docs/tasks/tools) or see --help"
  kubectl get namespace "$NAMESPACE" -o name >/dev/null ||
    fail "the cluster does not answer, or has no namespace $NAMESPACE: kubectl create namespace $NAMESPACE"
}

secret_exists() {
  [[ -n $(kubectl -n "$NAMESPACE" get secret "$1" --ignore-not-found -o name) ]]
}

# secret_value SECRET KEY
secret_value() {
  kubectl -n "$NAMESPACE" get secret "$1" -o "jsonpath={.data.$2}" | base64 -d
}

# store_secret NAME, with lines "key=value" on stdin. `create`, so that a secret that came meanwhile is not replaced.
store_secret() {
  {
    printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\nstringData:\n' "$1"
    sed -E 's/^([a-z-]+)=(.*)$/  \1: "\2"/'
  } | kubectl -n "$NAMESPACE" create -f - >/dev/null
  printf 'made the secret %s\n' "$1"
}

# 32 random bytes in letters, digits, - and _.
random_secret() {
  head -c 32 /dev/urandom | base64 -w 0 | tr '+/' '-_' | tr -d '='
}
