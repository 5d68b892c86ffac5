#!/usr/bin/env bash
# The whole way on the shipped sample, with no network: text embeddings, semantic IDs, retrieval
# model, evaluation, recommendations. A second call reuses what is there, and one after an
# interruption goes on; delete runs/rqvae/sample and runs/decoder/sample to begin anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
prepare_environment
export HF_HUB_OFFLINE=1

tokenizer=runs/rqvae/sample
run=runs/decoder/sample

# The last thing that training writes is how long it took.
finished() { grep -q '"train_seconds"' "$1/meta.json" 2>/dev/null; }

train() { # script, configuration, run folder, more arguments
  local script="$1" config="$2" folder="$3"
  shift 3
  if [ -f "$folder/latest" ]; then # interrupted, or it would be finished
    set -- --resume "$@"
  fi
  accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no \
    --dynamo_backend no "$script" "$config" "$@"
}

echo "== stage one: text embeddings and semantic IDs"
if finished "$tokenizer"; then
  echo "   done before: $tokenizer"
else
  train scripts/train_rqvae.py configs/rqvae/sample.gin "$tokenizer"
  rm -rf "$run" # a model of older IDs
fi

echo "== stage two: the retrieval model"
if finished "$run"; then
  echo "   done before: $run"
else
  train scripts/train_decoder.py configs/decoder/sample.gin "$run" --gin train.test_at_end=False
fi

echo "== evaluation: R is Recall, N is NDCG"
genrec evaluate "$run" --reuse -k 5 -k 10

echo "== recommendations for three users"
genrec recommend "$run" --users 3 -k 5

echo "== the run lies in $run, its tokenizer in $tokenizer"
