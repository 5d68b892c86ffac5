"""The stages that can be trained, and the plan of ``genrec train``: which, from which recipe.

All settings of a plan are read and checked before its first stage trains, so that a mistake in
the last one costs no hours.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.errors import ConfigError, GenRecError, MissingPathError, did_you_mean
from genrec.recipes import find_recipe, recipe_name, recipe_names

if TYPE_CHECKING:  # the trainings bring PyTorch along, which `genrec train --help` does without
    from genrec.training.settings import TrainingSettings

__all__ = ["STAGES", "Options", "Stage", "Step", "choose", "find_stage", "plan", "run_plan", "say"]


@dataclass(frozen=True)
class Stage:
    """A training.

    Attributes:
        module: Holds its settings and its function ``train``.
        settings_name: Name of the settings' class.
        folders: Folders of ``configs/`` with its recipes.
        follows: The stage whose run it takes IDs and data from, or None.
    """

    module: str
    settings_name: str
    folders: tuple[str, ...]
    follows: str | None = None

    @property
    def settings(self) -> type[TrainingSettings]:
        """Import the class of its settings."""
        found: type[TrainingSettings] = getattr(
            importlib.import_module(self.module), self.settings_name
        )
        return found

    @property
    def train(self) -> Callable[[Any], Path]:
        """Import its training, from settings to the run's folder."""
        found: Callable[[Any], Path] = importlib.import_module(self.module).train
        return found


#: A new stage is one line here, with its recipes in ``configs/``.
STAGES: Mapping[str, Stage] = {
    "rqvae": Stage("genrec.training.rqvae", "RqVaeSettings", ("rqvae", "rkmeans")),
    "decoder": Stage("genrec.training.decoder", "DecoderSettings", ("decoder",), "rqvae"),
    "sasrec": Stage("genrec.training.sasrec", "SasRecSettings", ("sasrec",)),
}

#: What the name of a recipe alone stands for, where these stages have it.
_WHOLE_WAY = ("rqvae", "decoder")
_DEFAULT_RECIPE = "amazon"


@dataclass(frozen=True)
class Options:
    """What a plan is told besides stages and recipes.

    Attributes:
        split: Part of the release, or None for the recipe's.
        data: Folder of the source or of a prepared data set, or None for the recipe's.
        name: Runs lie in ``runs/STAGE/NAME``; None takes the recipe's folder.
        bindings: Overrides, ``train.x=1`` or with the stage's name in place of ``train``.
        resume: Whether to go on: finished stages are kept, an interrupted one is resumed, one
            without a checkpoint is begun.
        restart: With ``resume``: a single stage too is kept where it is finished, and who plans
            compares the settings.
    """

    split: str | None = None
    data: str | None = None
    name: str | None = None
    bindings: Sequence[str] = ()
    resume: bool = False
    restart: bool = False


@dataclass(frozen=True)
class Step:
    """A stage with its settings, ready to train.

    Attributes:
        stage: Name of the stage.
        recipe: Its gin file.
        settings: What the recipe and the options come to.
        run: The run's folder.
        done: Whether the run is finished already.
    """

    stage: str
    recipe: Path
    settings: TrainingSettings
    run: Path
    done: bool = False


def find_stage(name: str) -> Stage:
    """Look a stage up.

    Args:
        name: For example ``decoder``.

    Returns:
        The stage.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in STAGES:
        raise ConfigError(f"STAGE must be known, got {name!r}; {did_you_mean(name, STAGES)}")
    return STAGES[name]


def plan(words: Sequence[str], options: Options) -> list[Step]:
    """Turn the words of a command line into settings, all checked; nothing is written.

    Args:
        words: Stages and recipes: ``sample``, ``rqvae sample``, ``rqvae/amazon decoder/amazon``.
        options: What else was said.

    Returns:
        What to train, in order; a stage is trained on the run of the one that it follows.

    Raises:
        GenRecError: If a word, a recipe or a setting is wrong, or a run would be replaced.
    """
    from genrec.config import ROOT, configure
    from genrec.training.session import run_path

    chosen = choose(words)
    bindings = _share_out(options.bindings, [stage for stage, _ in chosen])
    steps: dict[str, Step] = {}
    for name, recipe in chosen:
        stage = STAGES[name]
        before = steps.get(stage.follows or "")
        given = _shorthands(options)
        if before is not None:
            given["pretrained_rqvae_path"] = str(before.run)
        elif options.data is not None:
            given["dataset_folder"] = options.data
        words_of_gin = [f"{ROOT}.{key}={value!r}" for key, value in given.items()]
        with _named(name, len(chosen)):
            settings = configure(stage.settings, recipe, [*words_of_gin, *bindings[name]])
        settings = dataclasses.replace(settings, recipe=recipe_name(recipe))
        if options.name is not None:
            _check_name(options.name, len(chosen))
            root = Path(settings.save_dir_root).parent / options.name
            settings = dataclasses.replace(settings, save_dir_root=str(root))
        anew = before is not None and not before.done
        done = False
        if options.resume and len(chosen) == 1 and not options.restart:
            settings = dataclasses.replace(settings, resume=True)
        elif options.resume and not anew:
            with _named(name, len(chosen)):
                done, settings = _go_on(settings, check=not options.restart)
        steps[name] = Step(name, recipe, settings, run_path(settings), done)
    _check_folders(list(steps.values()))
    return list(steps.values())


def run_plan(steps: Sequence[Step]) -> None:
    """Say what will be done, and do it.

    Args:
        steps: From :func:`plan`.

    Raises:
        GenRecError: If the data is not as it should be.
        KeyboardInterrupt: If the training was stopped from outside; it can be resumed.
    """
    from genrec.checkpoint import RunDirectory

    for number, step in enumerate(steps, start=1):
        begun = step.settings.resume and RunDirectory(step.run).newest() is not None
        what = "done before" if step.done else "go on with" if begun else "train"
        say(f"{number}/{len(steps)} {step.stage}: recipe {step.settings.recipe}; {what} {step.run}")
    for step in steps:
        if step.done:
            with _named(step.stage, len(steps)):
                _check_kept(step)
        else:
            if len(steps) > 1:
                say(f"== {step.stage}")
            with _named(step.stage, len(steps)):
                STAGES[step.stage].train(step.settings)


def choose(words: Sequence[str]) -> list[tuple[str, Path]]:
    """Pair stages with recipes.

    Args:
        words: Those of ``genrec train``.

    Returns:
        Name of each stage and its gin file, in order.

    Raises:
        GenRecError: If a word is neither a stage nor a recipe, or a stage is named twice.
    """
    chosen: list[tuple[str, Path]] = []
    stage = None
    for word in [*words, None]:
        if stage is not None:
            lone = word is None or word in STAGES
            recipe = find_recipe(_DEFAULT_RECIPE if lone else str(word), STAGES[stage].folders)
            chosen.append((stage, recipe))
            stage = word if lone else None
        elif word in STAGES:
            stage = word
        elif word is not None:
            chosen += _by_recipe(word)
    twice = [stage for stage, _ in chosen]
    if len(set(twice)) < len(twice):
        raise ConfigError(
            f"each stage must be named once, got {', '.join(twice)}; train one after the other "
            "with a command each"
        )
    return chosen


def _by_recipe(word: str) -> list[tuple[str, Path]]:
    """Tell which stages a recipe is for, when none was named."""
    folder = Path(word).parent.name
    if folder or word.endswith(".gin"):
        for name, stage in STAGES.items():
            if folder in stage.folders:
                return [(name, find_recipe(word, stage.folders))]
        if Path(word).is_file():
            raise ConfigError(
                f"STAGE must be named before a gin file of your own, got {word}; write for example "
                f"`genrec train {next(iter(STAGES))} {word}`"
            )
    of_stage = {
        name: [recipe.rpartition("/")[2] for recipe in recipe_names(stage.folders)]
        for name, stage in STAGES.items()
    }
    stages = [name for name in _WHOLE_WAY if word in of_stage[name]]
    stages = stages or [name for name in STAGES if word in of_stage[name]]
    if not stages:
        every = [folder for stage in STAGES.values() for folder in stage.folders]
        known = [*STAGES, "auto", *(name for names in of_stage.values() for name in names)]
        raise ConfigError(
            "WHAT must be a stage, a recipe or a gin file, got "
            f"{word!r}; {did_you_mean(word, [*known, *recipe_names(every)])}"
        )
    return [(name, find_recipe(word, STAGES[name].folders)) for name in stages]


def _share_out(bindings: Sequence[str], stages: Sequence[str]) -> dict[str, list[str]]:
    """Give each stage its overrides, with the root that gin knows."""
    from genrec.config import ROOT

    shares: dict[str, list[str]] = {stage: [] for stage in stages}
    for binding in bindings:
        _check_key(binding, stages)
        root, _, rest = binding.strip().partition(".")
        if root in shares:
            shares[root].append(f"{ROOT}.{rest}")
        elif root in STAGES:
            raise ConfigError(
                f"override must be of a stage that is trained, {' or '.join(stages)}, got "
                f"{binding!r}; leave it out"
            )
        elif len(stages) == 1:
            shares[stages[0]].append(binding)
        else:
            raise ConfigError(
                f"override must name its stage where several are trained, got {binding!r}; write "
                f"{_as_override(binding, stages)}"
            )
    return shares


def _check_key(binding: str, stages: Sequence[str]) -> None:
    """Refuse a name of several parts, as in gin's scopes, and say how it is written here."""
    from genrec.config import ROOT

    key, equals, _ = binding.strip().partition("=")
    *roots, _ = re.split(r"[/.]", key.strip())
    known = {ROOT, *STAGES}
    if equals and ("/" in key or len(roots) > 1) and known & set(roots):
        named = [root for root in roots if root in stages] or stages
        raise ConfigError(
            f"override must be STAGE.NAME=VALUE, got {binding!r}; write "
            f"{_as_override(binding, named)}"
        )


def _as_override(binding: str, stages: Sequence[str]) -> str:
    """Write an override as each of some stages takes it, whatever stands before its name."""
    key, equals, value = binding.strip().partition("=")
    name = re.split(r"\W+", key.strip())[-1]
    return " or ".join(f"{stage}.{name}{equals}{value}" for stage in stages)


def _shorthands(options: Options) -> dict[str, Any]:
    """Turn options into settings; a prepared data set is whole, so no split names a part of it."""
    if options.split is not None:
        return {"dataset_split": options.split}
    from genrec.data.prepared import is_prepared

    if options.data is not None and is_prepared(options.data):
        return {"dataset_split": None}
    return {}


def _check_name(name: str, num_stages: int) -> None:
    """Refuse a name by which runs would lie outside their stage's folder, or all in one."""
    path = Path(name)
    apart = num_stages == 1 or not path.is_absolute()
    if not name.strip() or not path.parts or ".." in path.parts or "\0" in name or not apart:
        raise ConfigError(
            f"--name must be the name of a folder below runs/STAGE, got {name!r}; for example "
            "my-shop"
        )


def _go_on(settings: TrainingSettings, *, check: bool) -> tuple[bool, TrainingSettings]:
    """Tell whether a run is finished, and ``check`` with which settings; if not, go on with it."""
    from genrec.training.session import check_unchanged, read_meta, run_path

    # The last thing that a training writes is how long it took.
    if "train_seconds" not in read_meta(run_path(settings)):
        return False, dataclasses.replace(settings, resume=True)
    if not check:
        return True, settings
    changed = bool(check_unchanged(settings, run_path(settings)))
    begun, now = read_meta(run_path(settings)).get("settings", {}), settings.as_dict()
    # Under a constant schedule a run may become longer.
    changed |= any(begun.get(name, now[name]) != now[name] for name in ("iterations", "epochs"))
    return not changed, dataclasses.replace(settings, resume=changed)


def _check_kept(step: Step) -> None:
    """Refuse a stage that is kept where its data set, or the IDs it was given, are others now.

    What is gone cannot be compared, and a stage that is finished needs it no more.
    """
    from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
    from genrec.training.session import read_meta

    settings: Any = step.settings
    before = str(getattr(settings, "pretrained_rqvae_path", None) or "")
    if STAGES[step.stage].follows is not None and (Path(before) / ARTIFACT_NAME).is_dir():
        known, table = read_meta(step.run).get("ids_fingerprint"), SemanticIdTokenizer.load(before)
        whole = settings.add_disambiguation or not table.has_dedup_digit
        if whole and known not in (None, table.fingerprint):
            raise ConfigError(
                f"resume needs the IDs that the run in {step.run} was trained on, got others in "
                f"{before}, which was trained or tokenized anew; train another run with --name"
            )
    if hasattr(settings, "encoder_model_name") and settings.dataset_folder is not None:
        with suppress(MissingPathError):
            _check_data(step)


def _check_data(step: Step) -> None:
    """Refuse another data set than a stage that is kept was trained on."""
    from genrec.data.processed import load_or_prepare
    from genrec.training.session import read_meta

    settings: Any = step.settings
    data = load_or_prepare(
        settings.dataset,
        settings.dataset_folder,
        split=settings.dataset_split,
        encoder_model_name=settings.encoder_model_name,
        processed_dir=settings.processed_dir,
    )
    if read_meta(step.run).get("data_fingerprint", data.fingerprint) != data.fingerprint:
        raise ConfigError(
            f"resume needs the data set that the run in {step.run} was trained on, got another "
            f"one in {settings.dataset_folder}; name that one, or train another run with --name"
        )


def _check_folders(steps: Sequence[Step]) -> None:
    """Refuse before the first stage trains what would stop a later one."""
    from genrec.training.session import resume_point

    for step in steps:
        if not step.done:
            with _named(step.stage, len(steps)):
                resume_point(step.settings)


@contextmanager
def _named(stage: str, num_stages: int) -> Iterator[None]:
    """Let mistakes name settings as they are given where several stages are trained."""
    from genrec.config import ROOT

    try:
        yield
    except GenRecError as error:
        if num_stages == 1:
            raise
        said = re.sub(rf"\b{ROOT}\.(?=[a-z])", f"{stage}.", str(error))
        error.args = (said,)  # a class of errors may be made of other things than its message
        if str(error) == said:
            raise
        raise ConfigError(said) from error  # gin's own wrapping keeps the message it had


def say(text: str) -> None:
    """Print a line on the main process."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
