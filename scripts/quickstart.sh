#!/usr/bin/env bash
# The whole way on a synthetic shop, with no network: text embeddings, semantic IDs, retrieval
# model, evaluation, recommendations, and a page about all of it. A second call reuses what is
# there, and one after an interruption goes on; delete runs/rqvae/sample and runs/decoder/sample to
# begin anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
prepare_environment report
export HF_HUB_OFFLINE=1

tokenizer=runs/rqvae/sample
run=runs/decoder/sample

echo "== both stages: text embeddings and semantic IDs, then the retrieval model"
genrec train sample --resume --gin decoder.test_at_end=False

echo "== evaluation: R is Recall, N is NDCG"
genrec evaluate "$run" --reuse -k 5 -k 10

echo "== recommendations for three users"
genrec recommend "$run" --users 3 -k 5

echo "== a page about all of it"
genrec report "$run" --out runs/report.html

echo "== the run lies in $run, its tokenizer in $tokenizer, the page in $PWD/runs/report.html"
echo "== to go on with the command genrec: source $VIRTUAL_ENV/bin/activate"
