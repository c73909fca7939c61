#!/usr/bin/env bash
# Has main-api make a key for the pods that draw and train, and puts it into the secret enlight-node. Those pods wait
# for it. A key that is there stays. main-api has to run.
#
#   create-node-key.sh
#
#   NAMESPACE   enlight
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "create-node-key.sh: there is no option $1; see --help" >&2; exit 2 ;;
esac
NAMESPACE=${NAMESPACE:-enlight}
# shellcheck source=lib/secrets.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/secrets.sh"
check_cluster

if secret_exists enlight-node; then
  echo "the secret enlight-node is there"
  exit
fi
kubectl -n "$NAMESPACE" rollout status deployment/main-api --timeout=300s >/dev/null ||
  fail "main-api is not ready: kubectl -n $NAMESPACE describe deployment main-api"
made=$(kubectl -n "$NAMESPACE" exec deployment/main-api -c main-api -- \
  python -m main_api.keys node-keys create --name cluster) || fail "main-api made no key"
key=$(sed -nE 's/.*"key": *"([^"]+)".*/\1/p' <<<"$made")
[[ -n $key ]] || fail "main-api's answer has no key"
printf 'node-key=%s\n' "$key" | store_secret enlight-node
