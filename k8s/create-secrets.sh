#!/usr/bin/env bash
# Makes the secrets of the overlay dev in the cluster that kubectl speaks to, with random passwords.
# Those that are there stay as they are, so that it can be run again, also after it was stopped in the middle.
#
#   create-secrets.sh
#
#   NAMESPACE   enlight
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "create-secrets.sh: there is no option $1; see --help" >&2; exit 2 ;;
esac
NAMESPACE=${NAMESPACE:-enlight}
# shellcheck source=lib/secrets.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/secrets.sh"
check_cluster

for store in mongodb redis broker; do
  secret_exists "enlight-$store" || printf 'password=%s\n' "$(random_secret)" | store_secret "enlight-$store"
done

if ! secret_exists enlight-main-api; then
  mongodb=$(secret_value enlight-mongodb password)
  redis=$(secret_value enlight-redis password)
  broker=$(secret_value enlight-broker password)
  [[ -n $mongodb && -n $redis && -n $broker ]] || fail "a store's secret has no password: delete it and run this again"
  store_secret enlight-main-api <<END
signing-secret=$(random_secret)
mongo-url=mongodb://enlight:$mongodb@mongodb:27017/?authSource=admin
redis-url=redis://:$redis@redis:6379/0
broker-url=redis://:$broker@broker:6379/0
END
fi
echo "all secrets are there; the key of the GPU pods comes later: create-node-key.sh"
