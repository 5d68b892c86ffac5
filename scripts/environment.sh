# Sourced by the other scripts: an environment with genrec in it, made once.
# Uses the active virtual environment, or .venv of the repository.

fail() {
  echo "error: $*" >&2
  exit 2
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

make_environment() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10 python; do
    if command -v "$candidate" >/dev/null 2>&1 && new_enough "$candidate"; then
      echo "== making the environment .venv with $("$candidate" --version)"
      # Made beside its place: an interrupted call must not leave a half one that looks whole.
      rm -rf .venv
      "$candidate" -m venv .venv && .venv/bin/python -m pip --version >/dev/null && return
      rm -rf .venv
      fail "the module venv must work, got none in $candidate; install it (Debian and Ubuntu:" \
        "apt install python3-venv), or activate a virtual environment"
    fi
  done
  fail "Python must be 3.10 or newer, got none; install one, or set PYTHON to its path"
}

prepare_environment() { # $1: extra of pyproject.toml to install too, for example dev
  local stamp want have
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    .venv/bin/python -m pip --version >/dev/null 2>&1 || make_environment
    VIRTUAL_ENV="$PWD/.venv"
    export VIRTUAL_ENV
  fi
  export PATH="$VIRTUAL_ENV/bin:$PATH"
  new_enough "$VIRTUAL_ENV/bin/python" ||
    fail "Python must be 3.10 or newer, got $(python --version 2>&1) in $VIRTUAL_ENV; use another"
  # A stamp says what was installed from where, so that a second call starts at once.
  want="$(cat pyproject.toml setup.py constraints.txt | cksum) $PWD"
  stamp="$VIRTUAL_ENV/.genrec-installed"
  have="$(cat "$stamp" 2>/dev/null || true)"
  if [ "$have" != "$want ${1:-}" ] && [ "$have" != "$want dev" ]; then
    echo "== installing genrec into $VIRTUAL_ENV (some minutes the first time)"
    python -m pip install --disable-pip-version-check --no-input --progress-bar off \
      -c constraints.txt -e ".${1:+[$1]}" | sed -n 's/^Collecting \([^ ]*\).*/   \1/p'
    echo "$want ${1:-}" >"$stamp"
  fi
}

# As many threads as there are cores for this process, and none that waits by spinning: on a
# small machine those take the cores from the ones that work.
cores="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cores}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" KMP_BLOCKTIME="${KMP_BLOCKTIME:-0}"
export TOKENIZERS_PARALLELISM=false
