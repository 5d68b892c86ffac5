"""Names what is wrong with a run that recommends: the evidence, and the settings to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from genrec.data.prepared import PreparedDataset
from genrec.reporting.diagnose import Finding
from genrec.reporting.level_findings import (
    SURE,
    poor_levels,
    spent_on_illegal,
    too_sure,
)
from genrec.reporting.ranking_advice import RunFacts
from genrec.reporting.ranking_diagnosis import Bucket, Diagnosis
from genrec.reporting.ranking_evidence import measure
from genrec.reporting.training_findings import (
    FALLING,
    is_undertrained,
    overfitted,
    undertrained,
)
from genrec.reporting.training_log import TrainingLog
from genrec.trained import Trained

__all__ = ["USERS", "diagnose_ranking", "find_troubles"]

#: Validation users that a diagnosis looks at, where nobody says otherwise.
USERS = 2000
#: Share of all hits that may be lost to beams dropped early, or to equal codes.
LOST_HITS = 0.05
#: A bucket is far worse when its recall is below this share of that of all users.
FAR_WORSE = 0.5
#: Cold items are never found when as many hits were to be expected of the overall recall.
EXPECTED_HITS = 3.0


def diagnose_ranking(run: Trained, data: PreparedDataset, *, users: int = USERS) -> Diagnosis:
    """Diagnose a run that recommends, on its validation split.

    Args:
        run: The run.
        data: The data set that it was trained on.
        users: See :func:`~genrec.reporting.ranking_evidence.measure`.

    Returns:
        Numbers and findings.

    Raises:
        GenRecError: As :func:`~genrec.reporting.ranking_evidence.measure`.
    """
    measured = measure(run, data, users=users)
    facts = RunFacts(
        model=str(run.meta.get("model", type(run.model).__name__)),
        settings=run.meta.get("settings", {}),
        log=TrainingLog.read(run.path),
        max_history=run.ranker.max_history,
    )
    return replace(measured, findings=tuple(find_troubles(measured, facts)))


def find_troubles(diagnosis: Diagnosis, facts: RunFacts) -> list[Finding]:
    """Find what is wrong, worst first; none where nothing is."""
    checks = (
        undertrained,
        overfitted,
        _below_counting,
        poor_levels,
        spent_on_illegal,
        _lost_by_search,
        _cold,
        _histories,
        _frequencies,
        _colliding,
        too_sure,
    )
    return [found for check in checks if (found := check(diagnosis, facts)) is not None]


def _improve(diagnosis: Diagnosis, facts: RunFacts) -> Iterator[str]:
    """Advise what makes a model better that counting beats."""
    young, fall = is_undertrained(diagnosis, facts), facts.log.late_fall
    if young or fall is None or fall > FALLING:
        yield f"{facts.longer()}, or `--resume` where the run was stopped"
    if facts.reads_codes:
        yield (
            "train.encoder_tokens = 'item', as in the recipes decoder/sample and decoder/amazon: "
            "one token an item learns faster, and only codes that exist "
            "share the probability"
        )
    if not facts.reads_codes and facts.settings.get("start_weight", 0) is None:
        yield "train.start_weight = 0.5: start item vectors from text and from co-occurrence"
    if facts.reads_items and not facts.settings.get("item_head_weight", 1):
        yield "train.item_head_weight = 2.0: a softmax over items as a second loss"
    if not young:
        yield from facts.regularise()
    if facts.settings.get("pretrained_rqvae_path") and (facts.reads_items or facts.reads_codes):
        yield (
            f"`genrec diagnose {facts.settings['pretrained_rqvae_path']}` tells whether the "
            "semantic IDs are good"
        )


def _below_counting(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    found = diagnosis.overall
    if found.recall > found.counting:
        return None
    name = "co-occurrence" if found.cooccurrence >= found.popularity else "popularity"
    return Finding(
        "worse than counting",
        (
            f"recall@10 {found.recall:.4f}, {name} {found.counting:.4f} for the same users: do not "
            "serve this run",
        ),
        tuple(_improve(diagnosis, facts)),
    )


def _lost_by_search(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    search = diagnosis.search
    if search is None or search.lost_hits <= LOST_HITS * (search.hits + search.lost_hits):
        return None
    share = search.lost_hits / (search.hits + search.lost_hits)
    advice = [
        f"train.num_beams = {2 * search.num_beams}, or `genrec evaluate {diagnosis.run} --beams "
        f"{2 * search.num_beams}`: keep more beams"
    ]
    if facts.reads_codes:
        advice.append("train.encoder_tokens = 'item': early codes then know what lies below them")
    elif facts.settings.get("normalize_over", "prefix") != "prefix":
        advice.append("train.normalize_over = 'prefix': beams spend nothing on what does not exist")
    return Finding(
        "search loses what the model knows",
        (
            f"with {search.num_beams} beams {100 * share:.1f} % of the hits at ten are lost: their "
            "items are likelier than the tenth result, but an early code was dropped",
            f"{100 * search.lost:.2f} % of the targets are likelier than the worst beam kept, and "
            "not among the beams",
        ),
        tuple(advice),
    )


def _cold(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    cold = next((b for b in diagnosis.by_popularity if b.most == 0), None)
    if cold is None or cold.recall > 0:
        return None
    if cold.users * diagnosis.overall.recall < EXPECTED_HITS:
        return None
    if facts.reads_items:
        advice = [
            "train.item_codes = True, train.item_drop = 0.2: items are known by their codes alone "
            "in part of the training, as new ones are"
        ]
    elif facts.reads_codes:
        advice = [
            "train.encoder_tokens = 'item' with train.item_drop = 0.2: items are known by their "
            "codes alone in part of the training, as new ones are"
        ]
    else:
        advice = [
            "`genrec train decoder` with train.encoder_tokens = 'item', train.item_drop = 0.2: "
            "vectors of items that nobody took are never trained, codes are shared"
        ]
    return Finding(
        "cold items are never found",
        (
            f"none of the {cold.users:,} targets that the training part does not hold is in a list "
            f"of ten; {cold.users * diagnosis.overall.recall:.0f} were to be expected of recall "
            f"{diagnosis.overall.recall:.4f}",
        ),
        tuple(advice),
    )


def _is_poor(bucket: Bucket, overall: Bucket) -> str | None:
    """Say in which way a bucket is far worse than all users; None where it is not.

    What is hard for counting too is no fault of the model.
    """
    if bucket.counting - bucket.recall > SURE * bucket.error:
        return f"counting {bucket.counting:.4f}"
    low = bucket.recall < FAR_WORSE * overall.recall
    sure = overall.recall - bucket.recall > SURE * (overall.recall / bucket.users) ** 0.5
    if low and sure and bucket.counting > FAR_WORSE * overall.counting:
        return f"all users {overall.recall:.4f}, counting {bucket.counting:.4f} as elsewhere"
    return None


def _histories(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    poor = {
        bucket: how
        for bucket in diagnosis.by_history
        if (how := _is_poor(bucket, diagnosis.overall)) is not None
    }
    if not poor or len(poor) == len(diagnosis.by_history):
        return None
    advice = []
    if any(bucket.most is None or bucket.most > facts.max_history for bucket in poor):
        advice.append(
            f"train.max_seq_len: more than {facts.max_history}, which is all that the model sees "
            "of such histories"
        )
    if min(bucket.least for bucket in poor) <= diagnosis.by_history[0].least:
        if facts.settings.get("train_data_subsample"):
            advice.append("train.train_data_subsample = False: train on the short beginnings too")
        elif facts.settings.get("start_weight", 0) is None and not facts.reads_codes:
            advice.append("train.start_weight = 0.5: start item vectors from what is known of them")
    return Finding(
        "histories of some lengths are served badly",
        tuple(
            f"{bucket.label} items: recall@10 {bucket.recall:.4f} for {bucket.users:,} users, {how}"
            for bucket, how in poor.items()
        ),
        tuple(advice or _improve(diagnosis, facts)),
    )


def _frequencies(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    poor = {
        bucket: how
        for bucket in diagnosis.by_popularity
        if bucket.most != 0 and (how := _is_poor(bucket, diagnosis.overall)) is not None
    }
    if not poor or diagnosis.overall.recall <= diagnosis.overall.counting:
        return None  # then all of it is worse, which is said already
    return Finding(
        "items of some frequencies are found badly",
        tuple(
            f"taken {bucket.label} times: recall@10 {bucket.recall:.4f} for {bucket.users:,} "
            f"users, {how}"
            for bucket, how in poor.items()
        ),
        tuple(_improve(diagnosis, facts)),
    )


def _colliding(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    found, alike = diagnosis.overall.recall, diagnosis.sid_recall
    if alike is None or alike - found <= LOST_HITS * alike:
        return None
    return Finding(
        "hits are lost among items of equal codes",
        (
            f"recall@10 {found:.4f} counts the target, {alike:.4f} any item with its codes before "
            "repair",
        ),
        (facts.reassign(),),
    )
