"""Names what is wrong with a run that recommends: the evidence, and the settings to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from genrec.data.prepared import PreparedDataset
from genrec.reporting.diagnose import Finding
from genrec.reporting.ranking_diagnosis import Bucket, Diagnosis, Level
from genrec.reporting.ranking_evidence import measure
from genrec.reporting.training_log import TrainingLog
from genrec.trained import Trained

__all__ = ["USERS", "RunFacts", "diagnose_ranking", "find_troubles"]

#: Validation users that a diagnosis looks at, where nobody says otherwise.
USERS = 2000
#: Differences count from so many standard errors on, and losses from so many nats on.
SURE = 2.0
LEAST_NATS = 0.02
#: Share of a level's loss that codes which do not exist may take.
MUCH_ILLEGAL = 0.1
#: What a model gained over a uniform guess on training examples holds on validation to this share
#: at least: it has not begun to fit them.
STILL_GENERAL = 0.75
#: A training loss falls when its last fifth lies this share below the fifth before.
FALLING = 0.005
#: A recall that ends this share above the evaluation before still rises; below the best, it fell.
RISING = 0.03
#: Share of all hits that may be lost to beams dropped early, or to equal codes.
LOST_HITS = 0.05
#: A bucket is far worse when its recall is below this share of that of all users.
FAR_WORSE = 0.5
#: Cold items are never found when as many hits were to be expected of the overall recall.
EXPECTED_HITS = 3.0


@dataclass(frozen=True)
class RunFacts:
    """What a run's folder says besides its numbers.

    Attributes:
        model: Class of the model.
        settings: Those of the training.
        log: Its curves.
        max_history: Items of a history that the model sees.
    """

    model: str = "ItemTokenRetrievalModel"
    settings: Mapping[str, Any] = field(default_factory=dict)
    log: TrainingLog = field(default_factory=TrainingLog)
    max_history: int = 20

    @property
    def reads_items(self) -> bool:
        """Whether it is the model that reads one token an item."""
        return self.model == "ItemTokenRetrievalModel"

    @property
    def reads_codes(self) -> bool:
        """Whether it is the model that reads each code of each item."""
        return self.model == "EncoderDecoderRetrievalModel"

    def longer(self) -> str:
        """Advise four times the training."""
        name = "epochs" if self.settings.get("epochs") is not None else "iterations"
        now = self.settings.get(name)
        if now is None:
            return "train longer"
        return f"train.{name} = {4 * now:g}: four times as long"

    def change(self, name: str, up: bool, why: str) -> str:
        """Advise to move a setting of the run."""
        return f"train.{name}: {'more' if up else 'less'} than {self.settings[name]:g}, {why}"


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
        _undertrained,
        _overfitted,
        _below_counting,
        _poor_levels,
        _illegal,
        _lost_by_search,
        _cold,
        _histories,
        _frequencies,
        _colliding,
        _too_sure,
    )
    return [found for check in checks if (found := check(diagnosis, facts)) is not None]


def _kept(diagnosis: Diagnosis) -> float | None:
    """Say how much of the gain over a uniform guess on training examples holds on validation."""
    uniform = sum(level.uniform for level in diagnosis.levels)
    fitted = uniform - sum(level.train_loss for level in diagnosis.levels)
    if not fitted > 0:
        return None
    return (uniform - sum(level.loss for level in diagnosis.levels)) / fitted


def _is_young(diagnosis: Diagnosis, facts: RunFacts) -> bool:
    """Tell whether the model has barely begun to fit its training examples."""
    kept, fall = _kept(diagnosis), facts.log.late_fall
    if not diagnosis.levels:
        return False
    general = kept is None or kept >= STILL_GENERAL
    return general and (fall is None or fall > FALLING)


def _undertrained(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    evidence, log = [], facts.log
    if _is_young(diagnosis, facts):
        kept = _kept(diagnosis)
        if kept is None:
            evidence.append("even on its training examples it is no better than a uniform guess")
        else:
            evidence.append(
                f"{100 * kept:.0f} % of what it gains over a uniform guess on training examples "
                "holds on validation: it has not begun to fit them"
            )
        if log.late_fall is not None:
            evidence.append(
                f"the training loss fell by {100 * log.late_fall:.1f} % over the last fifth of "
                "the training"
            )
    if len(log.recalls) > 1:
        (_, before), (step, last) = log.recalls[-2:]
        best = max(value for _, value in log.recalls)
        if last == best and last > (1 + RISING) * before:
            evidence.append(
                f"validation {log.chooser} still rose at the end, from {before:.4f} to {last:.4f} "
                f"at step {step:,}"
            )
    if not evidence:
        return None
    settings = [facts.longer()]
    steps, warmup = log.losses[-1][0] if log.losses else 0, facts.settings.get("warmup_steps", 0)
    if steps and warmup > 0.5 * steps:
        settings.append(
            f"train.warmup_steps: a tenth of all steps; the learning rate rose over "
            f"{min(warmup, steps):,} of the {steps:,} here"
        )
    return Finding("undertrained", tuple(evidence), tuple(settings))


def _overfitted(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    log = facts.log
    if len(log.recalls) < 2 or not log.losses:
        return None
    best_step, best = max(log.recalls, key=lambda point: point[1])
    last_step, last = log.recalls[-1]
    then, now = log.loss_at(best_step), log.loss_at(last_step)
    if last >= (1 - RISING) * best or now >= then:
        return None
    return Finding(
        "overfitting",
        (
            f"validation {log.chooser} fell from {best:.4f} at step {best_step:,} to {last:.4f} at "
            f"step {last_step:,}, while the training loss fell from {then:.4f} to {now:.4f}; the "
            "best step is the one in use",
        ),
        (*_regularise(facts), "train.patience = 2: stop when validation does not rise any more"),
    )


def _regularise(facts: RunFacts) -> Iterator[str]:
    """Advise what makes a model fit its training examples less."""
    for name in ("dropout_p", "weight_decay"):
        if name in facts.settings:
            yield facts.change(name, True, "so that it fits its training examples less")
    width = "embed_dim" if facts.model == "SasRec" else "decoder_embed_dim"
    if width in facts.settings:
        yield facts.change(width, False, "a smaller model")


def _improve(diagnosis: Diagnosis, facts: RunFacts) -> Iterator[str]:
    """Advise what makes a model better that counting beats."""
    if _is_young(diagnosis, facts):
        yield facts.longer()
    if facts.reads_codes:
        yield (
            "train.encoder_tokens = 'item', as in the recipes decoder/sample_items and "
            "decoder/amazon_items: one token an item learns faster, and only codes that exist "
            "share the probability"
        )
    if not facts.reads_codes and facts.settings.get("start_weight", 0) is None:
        yield "train.start_weight = 0.5: start item vectors from text and from co-occurrence"
    if facts.reads_items and not facts.settings.get("item_head_weight", 1):
        yield "train.item_head_weight = 2.0: a softmax over items as a second loss"
    if not _is_young(diagnosis, facts):
        yield from _regularise(facts)
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


def _poor_levels(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    poor = {level: bars for level in diagnosis.levels if (bars := _missed(level, level.calibrated))}
    if not poor:
        return None
    evidence = [
        f"{level.name}: loss {level.loss:.3f} nats, {level.calibrated:.3f} at its best "
        f"temperature; {_named(bars)}"
        for level, bars in poor.items()
    ]
    return Finding(
        "codes predicted worse than by guessing",
        tuple(evidence),
        tuple(dict.fromkeys(_improve_levels(poor, diagnosis, facts))),
    )


def _too_sure(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    sure = {
        level: bars
        for level in diagnosis.levels
        if (bars := _missed(level, level.loss)) and not _missed(level, level.calibrated)
    }
    # What goes to codes that do not exist is no sureness, and no temperature brings it back.
    sure = {level: bars for level, bars in sure.items() if level.temperature > 1}
    if not sure:
        return None
    advice = []
    if not facts.settings.get("label_smoothing", 1):
        advice.append("train.label_smoothing = 0.1: probabilities are then kept from one")
    name = "dropout_decoder" if facts.settings.get("dropout_decoder") is not None else "dropout_p"
    if name in facts.settings:
        advice.append(facts.change(name, True, "so that it fits its training examples less"))
    return Finding(
        "probabilities surer than they are right",
        (
            *(
                f"{level.name}: loss {level.loss:.3f} nats, {_named(bars)}; at temperature "
                f"{level.temperature:g} it is {level.calibrated:.3f}: it knows enough, and is "
                "too sure of it; ranks suffer little"
                for level, bars in sure.items()
            ),
        ),
        tuple(advice),
    )


def _missed(level: Level, loss: float) -> dict[str, float]:
    """Name the guesses that a loss is worse than, with what they cost."""
    bars = (
        ("a uniform guess", level.uniform, level.uniform_error),
        ("a bigram of codes", level.bigram, level.bigram_error),
    )
    return {name: bar for name, bar, error in bars if loss - bar > max(LEAST_NATS, SURE * error)}


def _named(bars: Mapping[str, float]) -> str:
    return " and ".join(f"{name} {bar:.3f}" for name, bar in bars.items())


def _improve_levels(
    poor: Mapping[Level, Mapping[str, float]], diagnosis: Diagnosis, facts: RunFacts
) -> Iterator[str]:
    """Advise what makes levels better that miss some bars."""
    young = _is_young(diagnosis, facts)
    for level, bars in poor.items():
        if young or level.train_loss >= min(bars.values()):
            yield f"{facts.longer()}; on training examples {level.name} costs " + (
                f"{level.train_loss:.3f}, no less either"
                if level.train_loss >= min(bars.values())
                else f"{level.train_loss:.3f}"
            )
    if not young and all(level.train_loss < min(bars.values()) for level, bars in poor.items()):
        yield from _regularise(facts)
    if facts.reads_codes:
        yield "train.encoder_tokens = 'item': one token an item learns faster"
    if any(level.name == "dedup digit" for level in poor):
        yield _reassign(facts)


def _illegal(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    wasted = [level for level in diagnosis.levels if level.illegal > MUCH_ILLEGAL * level.loss]
    if not wasted:
        return None
    advice = (
        "train.encoder_tokens = 'item', which knows what exists"
        if facts.reads_codes
        else "train.normalize_over = 'prefix'"
    )
    return Finding(
        "probability spent on codes that do not exist",
        tuple(
            f"{level.name}: {level.illegal:.3f} of {level.loss:.3f} nats go to codes that no item "
            "has there"
            for level in wasted
        ),
        (advice,),
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
        (_reassign(facts),),
    )


def _reassign(facts: RunFacts) -> str:
    stage_one = facts.settings.get("pretrained_rqvae_path") or "STAGE_ONE_RUN"
    return (
        f"`genrec tokenize {stage_one} --policy reassign`, then train again: every item gets codes "
        "of its own, and IDs need no further digit"
    )
