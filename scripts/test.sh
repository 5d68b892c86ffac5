#!/usr/bin/env bash
# The fast tests: offline, on a CPU. Arguments go to pytest, for example -k beam or -m slow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
prepare_environment dev
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE-1}" CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-}"
exec python -m pytest "$@"
