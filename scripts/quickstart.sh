#!/usr/bin/env bash
# The whole way on the shipped sample, offline: semantic IDs, retrieval model, evaluation,
# recommendations. A second call reuses what is there; delete runs/ to begin anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
prepare_environment
export HF_HUB_OFFLINE=1

stage() { # title, script, config, run folder, the file that shows it is done, overrides
  if [ -e "$4/$5" ]; then
    echo "== $1: done, in $4"
    return
  fi
  local resume=()
  if [ -f "$4/latest" ]; then resume=(--resume); fi
  echo "== $1"
  accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no \
    --dynamo_backend no "$2" "$3" ${resume[@]+"${resume[@]}"} "${@:6}"
}

stage "stage one: semantic IDs of the items" scripts/train_rqvae.py configs/rqvae/sample.gin \
  runs/rqvae/sample semantic_ids/meta.json
stage "stage two: the retrieval model" scripts/train_decoder.py configs/decoder/sample.gin \
  runs/decoder/sample metrics.json --gin "train.test_at_end=False"
echo "== evaluation"
genrec evaluate runs/decoder/sample --reuse -k 5 -k 10
echo "== recommendations for three users"
genrec recommend runs/decoder/sample --users 3 -k 5
echo "== the run lies in runs/decoder/sample"
