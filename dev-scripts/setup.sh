#!/usr/bin/env bash
# Makes .venv with all packages and the tools, at the versions in constraints.txt.
# Does nothing when nothing of that has changed. PYTHON=/path/to/python3.x chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/.setup-stamp # its fingerprint
place=$venv/.setup-place # the folder that it was made in

fail() {
  printf 'setup.sh: %s\n' "$*" >&2
  exit 1
}

new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local name
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not there"
    new_enough "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); 3.11 or newer is needed"
    echo "$PYTHON"
    return
  fi
  # The two that the tests run on come first.
  for name in python3.12 python3.11 python3 python3.13 python3.14; do
    if command -v "$name" >/dev/null && new_enough "$name"; then
      echo "$name"
      return
    fi
  done
  fail "no Python 3.11 or newer found (python3 is: $(python3 --version 2>&1 || true)); install one or set PYTHON="
}

# What the environment was made from.
fingerprint() {
  "$venv/bin/python" - "$PWD" <<'PYTHON'
import hashlib, pathlib, sys
digest = hashlib.sha256(f"{sys.version} {sys.argv[1]}".encode())
for path in ["constraints.txt", "requirements-dev.txt", "dev-scripts/setup.sh", *sorted(map(str, pathlib.Path().glob("*/pyproject.toml")))]:
    digest.update(path.encode() + pathlib.Path(path).read_bytes())
print(digest.hexdigest())
PYTHON
}

# Its programs begin with the path of the interpreter: moved or copied they run another one, or none.
is_moved() {
  [[ -f $place ]] && [[ $(<"$place") != "$PWD" ]]
}

up_to_date() {
  [[ -x $venv/bin/python && -f $stamp ]] && ! is_moved && [[ $(cat "$stamp") == "$(fingerprint)" ]]
}

if up_to_date; then
  exit 0
fi

# Two terminals may start this at once; the second waits and finds the work done.
mkdir -p "$venv"
if command -v flock >/dev/null; then
  exec 9<"$venv" # the folder itself: what is in it may be cleared
  flock -w 3600 9 || fail "another setup.sh has been running for an hour"
  if up_to_date; then
    exit 0
  fi
fi

if [[ ! -x $venv/bin/python ]] || is_moved || ! new_enough "$venv/bin/python" || ! "$venv/bin/python" -m pip --version &>/dev/null; then
  python=$(find_python)
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv module; on Debian and Ubuntu: apt install python3-venv"
  echo "setup.sh: making $venv with $("$python" --version)"
  if is_moved; then
    "$python" -m venv --clear "$venv"
  else
    "$python" -m venv "$venv"
  fi
fi
printf '%s\n' "$PWD" >"$place"

pip=("$venv/bin/python" -m pip --disable-pip-version-check --require-virtualenv)
# Several GB take a while: whoever watches sees how far it is.
[[ -t 1 ]] || pip+=(--quiet)
echo "setup.sh: installing packages (several GB the first time)"
rm -f "$stamp"
# setuptools first, pinned: the packages are then built with it and not with whatever is newest.
"${pip[@]}" install --retries 8 --constraint constraints.txt setuptools
"${pip[@]}" install --retries 8 --constraint constraints.txt --no-build-isolation \
  --requirement requirements-dev.txt --editable enlight-common --editable dreambooth-api \
  --editable 'main-api[embedded]' --editable 'bgrem[cpu]' --editable 'realesrgan[openvino]' --editable upsampler
fingerprint >"$stamp.new"
mv "$stamp.new" "$stamp"
echo "setup.sh: done"
