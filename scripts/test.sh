#!/usr/bin/env bash
# The fast tests: offline, on a CPU. Arguments go to pytest, for example -k beam or -m slow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
prepare_environment dev
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE-1}" CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-}"
# Tests are shared out over the cores, up to four; each takes one thread.
workers="${GENREC_TEST_WORKERS:-$((cores < 4 ? cores : 4))}"
if [ "$workers" -gt 1 ]; then
  export OMP_NUM_THREADS=1
  set -- --numprocesses "$workers" --dist worksteal "$@"
fi
exec python -m pytest "$@"
