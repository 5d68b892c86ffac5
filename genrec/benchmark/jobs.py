"""The runs of a benchmark, planned: every model with every seed, all settings checked."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from genrec.benchmark.fitted import FITTED, check_grid
from genrec.benchmark.settings import BenchmarkSettings
from genrec.data.prepared import is_prepared
from genrec.data.processed import RecDataset
from genrec.digests import read_signed
from genrec.errors import ConfigError, did_you_mean
from genrec.settings import Settings
from genrec.stages import STAGES, Options, Step, choose, plan
from genrec.training.settings import DataSettings, RunSettings, TrainingSettings

__all__ = ["Job", "own_settings", "plan_jobs", "shell_line"]

#: Where a run lies, how it is watched, and its data, which a fingerprint stands for.
_OUTSIDE = {
    *(known.name for known in fields(DataSettings)),
    *RunSettings.outside(),
    *("pretrained_rqvae_path", "test_at_end"),
}


@dataclass(frozen=True)
class Job:
    """A model to train with a seed, or to fit, and the rows that it makes.

    Attributes:
        model: Its name in the settings.
        seed: Seed of its trainings; 0 where it is fitted.
        folder: Where its runs lie.
        command: What repeats it.
        rows: By the names in the table, evaluation settings that differ from the run's own.
        settings: What its numbers depend on, see
            :attr:`~genrec.evaluation.results.ResultRow.settings`; rows add their own.
        fitted: Key of :data:`~genrec.benchmark.fitted.FITTED`; None where it is trained.
        words: Recipes, for :func:`~genrec.stages.plan`; none where it is fitted.
        bindings: Overrides of them.
    """

    model: str
    seed: int
    folder: Path
    command: str
    rows: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    fitted: str | None = None
    words: Sequence[str] = field(default=())
    bindings: Sequence[str] = field(default=())

    def steps(self) -> list[Step]:
        """Plan its stages as their folders are now: finished, to be resumed, or to be begun."""
        return plan(self.words, Options(bindings=self.bindings, resume=True, restart=True))


def plan_jobs(
    settings: BenchmarkSettings, command: Sequence[str], only: Sequence[str] = ()
) -> list[Job]:
    """Turn settings into jobs, all checked; nothing is written.

    Args:
        settings: Of the benchmark.
        command: Words that start the benchmark on these data.
        only: Models to run; all when empty.

    Returns:
        One job for each fitted model, one for each seed of the others, in the order of
        ``settings.models``.

    Raises:
        GenRecError: If a model, a recipe or a setting is wrong, or a folder holds a run of other
            settings.
    """
    for name in only:
        if name not in settings.models:
            raise ConfigError(
                f"--model must be of the benchmark, got {name!r}; "
                f"{did_you_mean(name, settings.models)}"
            )
    folders: dict[Path, str] = {}
    jobs = []
    for model, what in settings.models.items():
        place = Path(settings.out) / "runs" / re.sub(r"[^\w.]+", "-", model).lower()
        if place in folders:
            raise ConfigError(
                f"models must have folders of their own, got {folders[place]!r} and {model!r} for "
                f"{place}; rename one"
            )
        folders[place] = model
        if only and model not in only:
            continue
        if what in FITTED:
            jobs.append(_fitted(settings, model, place, [*command, "--model", model]))
        else:
            jobs += [_trained(settings, model, seed, place) for seed in settings.seeds]
    return jobs


def shell_line(words: Sequence[str]) -> str:
    """Join the words of a command, quoted for a shell where they must be."""
    # shlex writes "x='y'", which is what overrides look like, with six quotes.
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)
        for word in words
    )


def own_settings(settings: TrainingSettings | Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a training's settings what its result depends on besides its data."""
    known = settings.as_dict() if isinstance(settings, Settings) else settings
    return {name: value for name, value in known.items() if name not in _OUTSIDE}


def _fitted(settings: BenchmarkSettings, model: str, place: Path, command: Sequence[str]) -> Job:
    """Plan a model that is fitted in one go; no seed has a part in it."""
    kind = settings.models[model]
    for name, given in (("bindings", settings.bindings), ("rankings", settings.rankings)):
        if model in (given or {}):
            raise ConfigError(
                f"{name} must be of trained models, got {model!r}, which is fitted; write "
                "benchmark.grid for values to choose from"
            )
    grid = (settings.grid or {}).get(model, {})
    check_grid(kind, grid)
    how: dict[str, Any] = {"kind": kind, "max_history": settings.max_history}
    if grid:
        how |= {"grid": grid, "choose_by": settings.choose_by}
    return Job(model, 0, place, shell_line(command), {model: {}}, _plain(how), fitted=kind)


def _trained(settings: BenchmarkSettings, model: str, seed: int, place: Path) -> Job:
    """Plan a model that is trained by recipes."""
    if model in (settings.grid or {}):
        raise ConfigError(
            f"grid must be of fitted models, got {model!r}, which is trained; write a model for "
            "each value, with benchmark.bindings"
        )
    words = settings.models[model].split()
    try:
        chosen = choose(words)
    except ConfigError as error:
        if len(words) != 1:
            raise
        raise ConfigError(f"{error}; or one of {', '.join(FITTED)}") from error
    place = place / f"seed-{seed}"
    given = [*(settings.bindings or {}).get(model, ())]
    # What every training is told, and no repetition by hand needs to be.
    quiet = [f"{stage}.save_dir_root={str(place / stage)!r}" for stage, _ in chosen]
    quiet += [
        f"{stage}.test_at_end=False"
        for stage, _ in chosen
        if any(known.name == "test_at_end" for known in fields(STAGES[stage].settings))
    ]
    if settings.processed_dir is not None:
        quiet.append(f"{chosen[0][0]}.processed_dir={settings.processed_dir!r}")
    # Read in folders where nothing is: a run in its own one is compared once all is known.
    elsewhere = [f"{stage}.save_dir_root={str(place / 'none' / stage)!r}" for stage, _ in chosen]
    for step in plan(words, Options(bindings=[*given, *quiet, *elsewhere])):
        alone = STAGES[step.stage].follows not in [stage for stage, _ in chosen]
        wanted = _wanted(settings, seed, alone=alone)
        given += [
            f"{step.stage}.{name}={value!r}"
            for name, value in wanted.items()
            if _text(getattr(step.settings, name)) != value
        ]
    command = ["genrec", "train", *words]
    for binding in given:
        command += ["--gin", binding]
    job = Job(model, seed, place, shell_line(command), {}, {}, None, words, [*given, *quiet])
    steps = job.steps()
    labels = (settings.rankings or {}).get(model, {})
    rows = {f"{model}, {label}": how for label, how in labels.items()} or {model: {}}
    _check_rows(model, rows, steps[-1])
    for step in steps:
        _check_folder(step)
    if settings.num_beams is not None:
        rows = {name: {"num_beams": settings.num_beams, **how} for name, how in rows.items()}
    stages = {step.stage: own_settings(step.settings) for step in steps}
    return dataclasses.replace(job, rows=rows, settings=_plain({"stages": stages}))


def _wanted(settings: BenchmarkSettings, seed: int, *, alone: bool) -> dict[str, Any]:
    """Name the settings of a stage that the benchmark decides; ``alone``: it brings its data."""
    folder = settings.dataset_folder
    prepared = folder is not None and is_prepared(folder)
    wanted: dict[str, Any] = {"seed": seed}
    wanted["dataset_split"] = None if prepared else settings.dataset_split
    if alone:
        wanted["dataset_folder"] = folder
        if not prepared:
            wanted["dataset"] = _text(settings.dataset)
            wanted["encoder_model_name"] = settings.encoder
    return wanted


def _text(value: Any) -> Any:
    """Name a kind of data set as a gin file does; leave other values as they are."""
    return value.value if isinstance(value, RecDataset) else value


def _check_rows(model: str, rows: Mapping[str, Mapping[str, Any]], step: Step) -> None:
    """Refuse a model that recommends nothing, and rankings that its evaluation does not know."""
    if not hasattr(step.settings, "evaluation"):
        raise ConfigError(
            f"models must end with a stage that recommends, got {model!r} with {step.stage}; add "
            "one, for example decoder/amazon"
        )
    ranking: dict[str, Any] = getattr(step.settings, "ranking_options", dict)()
    known = dataclasses.asdict(step.settings.evaluation()) | ranking
    for how in rows.values():
        for name in how:
            if name not in known:
                raise ConfigError(
                    f"rankings of {model} must name its evaluation settings, got {name!r}; "
                    f"{did_you_mean(name, known)}"
                )


def _check_folder(step: Step) -> None:
    """Refuse a run of other settings in the folder, which must not be taken for this one."""
    meta = step.run / "meta.json"
    if not meta.is_file():
        return
    there, wanted = own_settings(read_signed(meta)["settings"]), _plain(own_settings(step.settings))
    if changed := sorted(k for k in {*there, *wanted} if there.get(k) != wanted.get(k)):
        raise ConfigError(
            f"run must be of the settings as they are now, got {step.run} with another "
            f"{', '.join(changed)}; delete it, or set another benchmark.out"
        )


def _plain(value: Any) -> Any:
    """Turn settings into what comes back when they are read as JSON."""
    return json.loads(json.dumps(value))
