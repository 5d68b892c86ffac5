"""Names what is wrong with the probabilities of a model's codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from genrec.reporting.diagnose import Finding
from genrec.reporting.ranking_advice import RunFacts
from genrec.reporting.ranking_diagnosis import Diagnosis, Level
from genrec.reporting.training_findings import is_undertrained

__all__ = ["SURE", "poor_levels", "spent_on_illegal", "too_sure"]

#: Differences count from so many standard errors on, and losses from so many nats on.
SURE = 2.0
LEAST_NATS = 0.02
#: Share of a level's loss that codes which do not exist may take.
MUCH_ILLEGAL = 0.1
#: A level that chooses among more than next to nothing has learnt something when it costs this
#: share less than a uniform guess.
LEAST_GAIN = 0.05
LEAST_CHOICE = 0.2


def poor_levels(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    """Find levels of which the model knows less than a guess, however sure it is."""
    poor = {level: bars for level in diagnosis.levels if (bars := _unknown(level))}
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


def too_sure(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    """Find levels whose loss is high only because the model is too sure of them."""
    # What goes to codes that do not exist is no sureness, and no temperature brings it back.
    sure = {
        level: bars
        for level in diagnosis.levels
        if level.temperature > 1 and (bars := _missed(level, level.loss)) and not _unknown(level)
    }
    if not sure:
        return None
    advice = []
    if not facts.settings.get("label_smoothing", 1):
        advice.append("train.label_smoothing = 0.1: it lowers the loss; ranks hardly change")
    name = "dropout_decoder" if facts.settings.get("dropout_decoder") is not None else "dropout_p"
    if name in facts.settings and not is_undertrained(diagnosis, facts):
        advice.append(facts.change(name, True, "so that it fits its training examples less"))
    return Finding(
        "probabilities surer than they are right",
        (
            *(
                f"{level.name}: loss {level.loss:.3f} nats, {_named(bars)}; at temperature "
                f"{level.temperature:g} it is {level.calibrated:.3f}: too sure of what it knows, "
                "from which ranks suffer little"
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


def _unknown(level: Level) -> dict[str, float]:
    """Name the guesses that know more of a level, or as much, whatever the temperature."""
    bars = _missed(level, level.calibrated)
    unlearnt = level.calibrated > (1 - LEAST_GAIN) * level.uniform and level.uniform > LEAST_CHOICE
    return {"a uniform guess": level.uniform, **bars} if unlearnt else bars


def _named(bars: Mapping[str, float]) -> str:
    return " and ".join(f"{name} {bar:.3f}" for name, bar in bars.items())


def _improve_levels(
    poor: Mapping[Level, Mapping[str, float]], diagnosis: Diagnosis, facts: RunFacts
) -> Iterator[str]:
    """Advise what makes levels better that miss some bars."""
    unlearnt = [
        level
        for level, bars in poor.items()
        if level.train_loss > (1 - LEAST_GAIN) * min(bars.values())
    ]
    if unlearnt or is_undertrained(diagnosis, facts):
        costs = " and ".join(f"{level.name} {level.train_loss:.3f}" for level in unlearnt)
        yield facts.longer() + (f"; on training examples too it costs {costs}" if costs else "")
    else:
        yield from facts.regularise()
    if facts.reads_codes:
        yield "train.encoder_tokens = 'item': one token an item learns faster"
    if any(level.name == "dedup digit" for level in poor):
        yield facts.reassign()


def spent_on_illegal(diagnosis: Diagnosis, facts: RunFacts) -> Finding | None:
    """Find levels at which codes that do not exist take much of the probability."""
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
