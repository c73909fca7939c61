#!/usr/bin/env bash
# Builds the images: build-images.sh [NAME…], by default all of dreambooth-api upsampler realesrgan main-api bgrem.
# The first three share one base with torch, which takes some 6 GB with CUDA, and twice that while it is built.
# What has not changed since the last build is taken from there.
#
#   TORCH=cuda             cpu: torch without CUDA, from CPU_INDEX where that can be reached, else the one with CUDA,
#                          which computes on a CPU as well
#   CPU_INDEX=https://download.pytorch.org/whl/cpu
#   DOCKER=docker          podman does as well
#   IMAGE_PREFIX=enlight   what the names begin with: registry.example.com/enlight
#   IMAGE_TAG              (default: the version in dreambooth-api/pyproject.toml)
# PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST and http_proxy, https_proxy, no_proxy reach the build.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source-path=SCRIPTDIR source=../dreambooth-manage/lib/images.sh
source "$ROOT/dreambooth-manage/lib/images.sh"

readonly ON_TORCH=(dreambooth-api upsampler realesrgan) ALL=(dreambooth-api upsampler realesrgan main-api bgrem)
readonly PASSED_ON=(PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY)
TORCH=${TORCH:-cuda}
CPU_INDEX=${CPU_INDEX:-https://download.pytorch.org/whl/cpu}

fail() {
  printf 'build-images.sh: %s\n' "$*" >&2
  exit 1
}

main() {
  local name
  local -a names=("$@")
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
    exit 0
  fi
  ((${#names[@]})) || names=("${ALL[@]}")
  for name in "${names[@]}"; do
    is_one_of "$name" "${ALL[@]}" || fail "there is no image $name: ${ALL[*]}"
  done
  [[ $TORCH =~ ^(cpu|cuda)$ ]] || fail "TORCH must be cpu or cuda"
  check_engine
  choose_torch
  describe_revision
  for name in "${names[@]}"; do
    if is_one_of "$name" "${ON_TORCH[@]}"; then
      build torch-base "$ROOT/dreambooth-api/base/Dockerfile"
      break
    fi
  done
  for name in "${names[@]}"; do
    build "$name" "$ROOT/$name/Dockerfile" --build-arg "BASE_IMAGE=$(image_of torch-base)"
  done
  "$DOCKER" images --filter "label=org.opencontainers.image.revision=$REVISION" --format '{{.Repository}}:{{.Tag}}  {{.Size}}'
}

is_one_of() {
  local wanted=$1 name
  shift
  for name in "$@"; do
    [[ $name != "$wanted" ]] || return 0
  done
  return 1
}

# 2.14.1+cpu counts as the 2.14.1 that constraints.txt wants, and pip prefers it.
choose_torch() {
  [[ $TORCH == cpu ]] || return 0
  if python3 -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1] + "/torchvision/", timeout=15)' "$CPU_INDEX" 2>/dev/null; then
    export PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:+$PIP_EXTRA_INDEX_URL }$CPU_INDEX"
  else
    echo "build-images.sh: $CPU_INDEX cannot be reached: torch is the one with CUDA, which computes on a CPU as well" >&2
  fi
}

describe_revision() {
  REVISION=unknown
  if command -v git >/dev/null && REVISION=$(git -C "$ROOT" rev-parse HEAD 2>/dev/null); then
    [[ -z $(git -C "$ROOT" status --porcelain 2>/dev/null) ]] || REVISION+=-changed
  else
    REVISION=unknown
  fi
}

# build NAME DOCKERFILE OPTION…
build() {
  local name=$1 dockerfile=$2 variable
  local -a passed=()
  shift 2
  for variable in "${PASSED_ON[@]}"; do
    # Without a value: it is taken from the environment, and no password is on a command line.
    [[ -z ${!variable:-} ]] || passed+=(--build-arg "$variable")
  done
  printf '== %s\n' "$(image_of "$name")"
  # podman's own format has no health checks.
  # Older engines have a builder without `RUN --mount` beside BuildKit.
  BUILDAH_FORMAT=docker DOCKER_BUILDKIT=1 "$DOCKER" build --file "$dockerfile" --tag "$(image_of "$name")" \
    --label "org.opencontainers.image.title=$name" --label "org.opencontainers.image.version=$IMAGE_TAG" \
    --label "org.opencontainers.image.revision=$REVISION" --label "org.opencontainers.image.licenses=Apache-2.0" \
    "${passed[@]}" "$@" "$ROOT" || fail "$(image_of "$name") cannot be built"
}

main "$@"
