# shellcheck shell=bash
# What a backup's folder has in it: manifest.json, written last. A folder without it is no backup. Sourced after steps.sh.

# write_manifest FOLDER VERSIONS SERVER…  VERSIONS is what js/versions.js printed
write_manifest() {
  local folder=$1 versions=$2 server file comma='' balancer=off
  shift 2
  [[ ! -e $CLUSTER_DIR/$BALANCER_MARK ]] || balancer=full
  {
    printf '{\n  "schema_version": 1,\n  "made_at": "%s",\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    printf '  "image": "%s",\n  "release": "%s",\n' "$MONGODB_IMAGE" "$(release_of config-1 "$versions")"
    printf '  "feature_version": "%s",\n' "$(feature_version "$versions")"
    # The balancer was stopped for the copy, and the copy says so: whether it is to run is known here only.
    printf '  "balancer": "%s",\n' "$balancer"
    printf '  "root_password_sha256": "%s",\n  "files": [' "$(password_of root | sha256sum | cut -d ' ' -f 1)"
    for server in "$@"; do
      file=${server%-*}.tar.gz
      printf '%s\n    {"name": "%s", "member": "%s", "bytes": %s, "sha256": "%s"}' "$comma" "$file" "$server" \
        "$(stat -c %s "$folder/$file")" "$(sha256sum "$folder/$file" | cut -d ' ' -f 1)"
      comma=,
    done
    printf '\n  ]\n}\n'
  } >"$folder/manifest.json"
}

# manifest_value FILE NAME  of those above that are text
manifest_value() {
  sed -n "s/^  \"$2\": \"\([^\"]*\)\",\$/\1/p" "$1"
}

# check_backup FOLDER  ends with an error unless all its files are there, as they were written
check_backup() {
  local manifest=$1/manifest.json set sum
  [[ -f $manifest ]] || fail "$1 is no backup: it has no manifest.json"
  [[ $(grep -c '"schema_version": 1,' "$manifest") == 1 ]] || fail "$1 was made by another release of this script"
  for set in "${SETS[@]}"; do
    sum=$(sed -n "s/.*\"name\": \"$set\.tar\.gz\".*\"sha256\": \"\([0-9a-f]\{64\}\)\".*/\1/p" "$manifest")
    [[ -n $sum && -f $1/$set.tar.gz ]] || fail "$1 has no $set.tar.gz"
    printf '%s  %s\n' "$sum" "$1/$set.tar.gz" | sha256sum --check --status || fail "$1/$set.tar.gz is damaged"
  done
}

# -- of what js/versions.js prints

# release_of SERVER VERSIONS
release_of() {
  sed -n "s/^release $1 //p" <<<"$2"
}

# feature_version VERSIONS  the one that all sets have, or "mixed"
feature_version() {
  local -a all
  mapfile -t all < <(sed -n 's/^feature [^ ]* //p' <<<"$1" | sort -u)
  if ((${#all[@]} == 1)) && [[ ${all[0]} =~ ^[0-9]+\.[0-9]+$ ]]; then
    echo "${all[0]}"
  else
    echo mixed
  fi
}
