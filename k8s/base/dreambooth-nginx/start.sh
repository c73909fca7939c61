#!/bin/sh
# Writes what nginx cannot find out by itself, where DNS is and what these pods are called there, and becomes nginx.
# Kubernetes puts both into resolv.conf; the first search domain is <namespace>.svc.<cluster domain>.
set -eu
resolv=${RESOLV_CONF:-/etc/resolv.conf}
out=${OUT:-/run/nginx}
conf=${NGINX_CONF:-/etc/enlight/nginx.conf}

servers=$(awk '$1 == "nameserver" { printf " %s", ($2 ~ /:/ ? "[" $2 "]" : $2) }' "$resolv")
domain=$(awk '$1 == "search" { print $2; exit }' "$resolv")
[ -n "$servers" ] && [ -n "$domain" ] || { echo "start.sh: $resolv names no server or no search domain" >&2; exit 1; }

# Pods come and go; DNS answers of Kubernetes live 30 s.
echo "resolver$servers valid=5s ipv6=off;" >"$out/resolver.conf"
echo "server dreambooth-api.$domain:5000 resolve max_fails=2 fail_timeout=1s;" >"$out/servers.conf"
exec nginx -c "$conf" -e stderr -g 'daemon off;'
