# shellcheck shell=bash
# shellcheck disable=SC2034  # read by those who source this file
# The images' names, for building them and for running them. Sourced with ROOT set.
#
#   DOCKER=docker              podman does as well
#   IMAGE_PREFIX=enlight       a registry's address and a name before the images' own: registry.example.com/enlight
#   IMAGE_TAG                  (default: the version in dreambooth-api/pyproject.toml)

DOCKER=${DOCKER:-docker}
IMAGE_PREFIX=${IMAGE_PREFIX:-enlight}
IMAGE_TAG=${IMAGE_TAG:-$(sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/dreambooth-api/pyproject.toml")}

image_of() {
  printf '%s/%s:%s' "$IMAGE_PREFIX" "$1" "$IMAGE_TAG"
}

check_engine() {
  [[ $IMAGE_PREFIX =~ ^[a-z0-9][a-z0-9._:/-]*$ ]] || fail "IMAGE_PREFIX must be an image's name without a tag"
  [[ $IMAGE_TAG =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || fail "IMAGE_TAG must be an image's tag"
  command -v "$DOCKER" >/dev/null || fail "$DOCKER is missing: install docker or podman, or set DOCKER"
  "$DOCKER" info >/dev/null 2>&1 || fail "$DOCKER does not answer: is it running, and may you use it?"
}
