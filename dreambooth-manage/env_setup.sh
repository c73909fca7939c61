#!/usr/bin/env bash
# Prepares a bare Ubuntu or Debian machine with NVIDIA GPUs for containers: the driver, docker, and NVIDIA's container
# toolkit. What is there already is left alone. Needs root; a new driver needs a restart of the machine, after which the
# same command goes on.
#   env_setup.sh            checks, says what is missing, does it, and says what it did
#   env_setup.sh --dry-run  checks, and says what it would do, by the lists of packages as they are
#
#   DRIVER                  the driver's package (default: the one that Ubuntu recommends; nvidia-driver on Debian)
#   TOOLKIT_URL             NVIDIA's repository of packages (default: https://nvidia.github.io/libnvidia-container)
set -euo pipefail

DRIVER=${DRIVER:-}
TOOLKIT_URL=${TOOLKIT_URL:-https://nvidia.github.io/libnvidia-container}
OS_RELEASE=${OS_RELEASE:-/etc/os-release}
APT_DIR=${APT_DIR:-/etc/apt}
PCI_DIR=${PCI_DIR:-/sys/bus/pci/devices}
readonly KEYRING=/usr/share/keyrings/nvidia-container-toolkit.gpg

DRY_RUN=''
DONE=() # what was done, or would be, for the last word
INDEX_IS_NEW=''

fail() {
  printf 'env_setup.sh: %s\n' "$*" >&2
  exit 1
}

say() {
  printf '%s\n' "$*"
}

main() {
  case ${1:-} in
    '') ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help)
      sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    *) fail "there is no option $1; see --help" ;;
  esac
  check_machine
  ensure_driver
  ensure_docker
  ensure_toolkit
  check_result
  say ""
  if ((${#DONE[@]} == 0)); then
    say "Everything was there already."
  elif [[ -n $DRY_RUN ]]; then
    say "Nothing was changed. It would:"
    printf '  %s\n' "${DONE[@]}"
  else
    say "Done:"
    printf '  %s\n' "${DONE[@]}"
  fi
}

# Before anything is changed.
check_machine() {
  local id
  [[ -r $OS_RELEASE ]] || fail "this is neither Ubuntu nor Debian: there is no $OS_RELEASE"
  id=$(sed -n 's/^ID="\{0,1\}\([a-z]*\).*/\1/p' "$OS_RELEASE")
  [[ $id =~ ^(ubuntu|debian)$ ]] || fail "this is neither Ubuntu nor Debian, but ${id:-unknown}"
  OS=$id
  command -v apt-get >/dev/null || fail "apt-get is missing"
  if [[ -z $DRY_RUN ]] && (($(id -u) != 0)); then
    fail "root is needed: run it with sudo, or look first what it would do: --dry-run"
  fi
  has_nvidia_card || fail "no NVIDIA card is seen on this machine's PCI bus: there is nothing to prepare"
}

# Read from the kernel, as a bare machine may lack lspci, and nothing is to be installed before this is known. The class
# is that of displays: a card's sound and the switches between cards are NVIDIA's too.
has_nvidia_card() {
  local device
  driver_works && return
  for device in "$PCI_DIR"/*; do
    [[ -r $device/vendor && -r $device/class ]] || continue
    [[ $(<"$device/vendor") != 0x10de || $(<"$device/class") != 0x03* ]] || return 0
  done
  return 1
}

driver_works() {
  command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus >/dev/null 2>&1
}

ensure_driver() {
  local package=$DRIVER
  if driver_works; then
    say "driver: there ($(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1))"
    return
  fi
  if command -v nvidia-smi >/dev/null; then
    say "driver: installed, but it does not answer"
    needs_restart
  fi
  say "driver: missing"
  if [[ -z $package && $OS == debian ]]; then
    package=nvidia-driver
  elif [[ -z $package ]]; then
    read_lists # ubuntu-drivers chooses among what they offer
    [[ -n $DRY_RUN ]] || command -v ubuntu-drivers >/dev/null || install_packages ubuntu-drivers-common
    package=$(ubuntu-drivers devices 2>/dev/null | sed -n 's/^driver *: \([a-z0-9-]*\).*recommended.*/\1/p' | head -n 1) || true
    [[ -n $package || -n $DRY_RUN ]] || fail "ubuntu-drivers recommends no driver: set DRIVER, as nvidia-driver-580-server"
  fi
  [[ $OS != debian ]] || install_headers "$package"
  # What a driver recommends is part of it: on some systems its module for the kernel comes that way.
  apt_install --install-recommends "${package:-the recommended driver}"
  [[ -n $DRY_RUN ]] || needs_restart
}

# install_headers DRIVER  Debian builds the driver's module on the machine, and without the running kernel's headers it
# silently does not. That the driver is offered is checked first, so that nothing is installed in vain.
install_headers() {
  local headers
  headers=linux-headers-$(uname -r)
  if [[ -z $DRY_RUN ]]; then
    is_offered "$1" || fail "$1 is not offered: add contrib and non-free to the sources of apt, or set DRIVER"
    is_offered "$headers" || fail "$headers is not offered: upgrade the kernel, restart the machine, and run this again"
  fi
  install_packages "$headers"
}

needs_restart() {
  [[ -z $DRY_RUN ]] || return 0
  if ((${#DONE[@]})); then
    say "Done:"
    printf '  %s\n' "${DONE[@]}"
  fi
  fail "restart the machine so that the driver is loaded, and run this again"
}

# The images use RUN --mount, which needs buildx. Newer systems keep it, and docker's command, in packages of their own.
ensure_docker() {
  local package packages=(docker.io)
  if command -v docker >/dev/null; then
    say "docker: there"
    return
  fi
  say "docker: missing"
  for package in docker-buildx docker-cli; do
    ! is_offered "$package" || packages+=("$package")
  done
  install_packages "${packages[@]}"
}

ensure_toolkit() {
  if command -v nvidia-ctk >/dev/null; then
    say "container toolkit: there"
  else
    say "container toolkit: missing"
    is_offered nvidia-container-toolkit || add_toolkit_source
    install_packages nvidia-container-toolkit
  fi
  if docker_knows_gpus; then
    say "docker's runtime for GPUs: there"
    return
  fi
  say "docker's runtime for GPUs: missing"
  act "tell docker of it (nvidia-ctk runtime configure)" nvidia-ctk runtime configure --runtime=docker
  act "restart docker" systemctl restart docker
}

# Not `docker info | grep -q`: grep ends at its match, docker may die of SIGPIPE, and pipefail makes that "not found".
docker_knows_gpus() {
  local info
  info=$(docker info 2>/dev/null) || return 1
  grep -q '^ *Runtimes:.*nvidia' <<<"$info"
}

is_offered() {
  read_lists
  [[ -n $(LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([^ (].*\)$/\1/p') ]]
}

add_toolkit_source() {
  if ! command -v curl >/dev/null || ! command -v gpg >/dev/null; then
    install_packages curl gnupg ca-certificates
  fi
  act "fetch the key of NVIDIA's packages to $KEYRING" fetch_key
  act "write $APT_DIR/sources.list.d/nvidia-container-toolkit.list" write_source
  INDEX_IS_NEW=''
}

fetch_key() {
  curl --fail --silent --show-error --location --retry 3 "$TOOLKIT_URL/gpgkey" | gpg --dearmor --yes --output "$KEYRING"
}

write_source() {
  printf 'deb [signed-by=%s] %s/stable/deb/%s /\n' "$KEYRING" "$TOOLKIT_URL" "$(dpkg --print-architecture)" \
    >"$APT_DIR/sources.list.d/nvidia-container-toolkit.list"
}

# Once, and again after a source was added: a bare machine's lists are empty or old.
read_lists() {
  [[ -z $INDEX_IS_NEW ]] || return 0
  act "read the lists of packages" apt-get update -q
  INDEX_IS_NEW=1
}

install_packages() {
  apt_install --no-install-recommends "$@"
}

# apt_install OPTION PACKAGE…
apt_install() {
  local option=$1
  shift
  read_lists
  act "install $*" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$option" "$@"
}

# act WHAT COMMAND…  runs it, and remembers what was done
act() {
  local what=$1
  shift
  DONE+=("$what")
  if [[ -z $DRY_RUN ]]; then
    "$@" >&2 || fail "this failed: $*"
  fi
}

check_result() {
  [[ -z $DRY_RUN ]] || return 0
  driver_works || fail "nvidia-smi does not answer"
  docker info >/dev/null 2>&1 || fail "docker does not answer: systemctl status docker tells why"
  docker_knows_gpus || fail "docker does not know the runtime for GPUs"
}

main "$@"
