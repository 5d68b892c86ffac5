"""Names what was wrong with the length of a training."""

from __future__ import annotations

from genrec.reporting.diagnose import Finding
from genrec.reporting.ranking_advice import RunFacts
from genrec.reporting.ranking_diagnosis import Diagnosis

__all__ = ["FALLING", "is_undertrained", "overfitted", "undertrained"]

#: What a model gained over a uniform guess on training examples holds on validation to this share
#: at least: it has not begun to fit them.
STILL_GENERAL = 0.75
#: A training loss falls when its last fifth lies this share below the fifth before.
FALLING = 0.005
#: A recall that ends this share above the evaluation before still rises; below the best, it fell.
RISING = 0.03


def is_undertrained(diagnosis: Diagnosis, facts: RunFacts) -> bool:
    """Tell whether a longer training would have gone on learning."""
    return bool(_still_learning(diagnosis, facts))


def undertrained(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    """Find out whether a longer training would have gone on learning."""
    log, evidence = facts.log, _still_learning(diagnosis, facts)
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


def overfitted(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    """Find out whether validation fell while the training loss did."""
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
        (*facts.regularise(), "train.patience = 2: stop when validation does not rise any more"),
    )


def _still_learning(diagnosis: Diagnosis, facts: RunFacts) -> list[str]:
    """Say by what one sees that a model was still learning."""
    evidence: list[str] = []
    log = facts.log
    if _is_young(diagnosis, facts):
        kept = _kept_share(diagnosis)
        if kept is None:
            evidence.append("even on its training examples it is no better than a uniform guess")
        else:
            evidence.append(
                f"{100 * kept:.0f} % of what it gains over a uniform guess on training examples "
                "holds on validation: more of the same may help"
            )
        if log.late_fall is not None:
            evidence.append(
                f"the training loss lay {100 * log.late_fall:.1f} % lower in the last fifth of the "
                "training than in the one before"
            )
    if len(log.recalls) > 1:
        (_, before), (step, last) = log.recalls[-2:]
        best = max(value for _, value in log.recalls)
        if last == best and last > (1 + RISING) * before:
            evidence.append(
                f"validation {log.chooser} still rose at the end, from {before:.4f} to {last:.4f} "
                f"at step {step:,}"
            )
    return evidence


def _kept_share(diagnosis: Diagnosis) -> float | None:
    """Say how much of the gain over a uniform guess on training examples holds on validation."""
    uniform = sum(level.uniform for level in diagnosis.levels)
    fitted = uniform - sum(level.train_loss for level in diagnosis.levels)
    if not fitted > 0:
        return None
    return (uniform - sum(level.loss for level in diagnosis.levels)) / fitted


def _is_young(diagnosis: Diagnosis, facts: RunFacts) -> bool:
    """Tell whether the model has barely begun to fit its training examples."""
    kept, fall = _kept_share(diagnosis), facts.log.late_fall
    if not diagnosis.levels:
        return False
    general = kept is None or kept >= STILL_GENERAL
    return general and (fall is None or fall > FALLING)
