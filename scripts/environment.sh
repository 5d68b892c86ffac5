# Sourced by the other scripts: an environment with genrec in it, made once.
# Uses the active virtual environment, or .venv of the repository.

find_python() {
  local candidate
  for candidate in python3 python python3.13 python3.12 python3.11 python3.10; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python must be 3.10 or newer, got none; install it and call this again" >&2
  return 2
}

prepare_environment() { # $1: extras, for example "dev"
  local python stamp want
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
      python="$(find_python)" || exit 2
      echo "making the environment .venv"
      "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
  fi
  # The stamp names what was installed from where, so that a second call starts at once.
  want="$(cat pyproject.toml constraints.txt | cksum) $PWD ${1:-}"
  stamp="$VIRTUAL_ENV/.genrec-installed${1:+-$1}"
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
    echo "installing genrec${1:+ with the extra $1} (a few minutes the first time)"
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${1:+[$1]}"
    echo "$want" >"$stamp"
  fi
}

# Threads that wait by spinning starve each other on a small machine.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(python3 -c 'import os; print(os.cpu_count() or 1)' 2>/dev/null || echo 1)}"
export KMP_BLOCKTIME="${KMP_BLOCKTIME:-0}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export TOKENIZERS_PARALLELISM=false
