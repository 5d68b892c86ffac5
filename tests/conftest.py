"""Fixtures shared by all tests: real data, and runs of the scripts on the shipped sample."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from genrec.data.prepared import PreparedDataset, write_prepared
from genrec.data.splits import leave_one_out

REPOSITORY = Path(__file__).resolve().parent.parent

WriteData = Callable[..., PreparedDataset]
Launch = Callable[..., subprocess.CompletedProcess[str]]

#: A stage on the sample in some seconds: what each test changes comes on top.
STAGE_ONE = {"iterations": 20, "kmeans_after_epochs": 1, "eval_every": 10, "log_every": 1}
SASREC = {
    "iterations": 160,
    "epochs": None,
    "batch_size": 64,
    "full_eval_every": 80,
    "warmup_steps": 5,
    "learning_rate": 1e-2,
    "schedule": "constant",
    "embed_dim": 32,
    "dropout_p": 0.1,
    "top_k_eval_list": [5, 10],
    "log_every": 1,
    "dataset_split": None,
    "dataset_folder": None,  # stage one's
}
STAGE_TWO = {
    "iterations": 12,
    "epochs": None,
    "full_eval_every": 6,
    "log_every": 1,
    "decoder_embed_dim": 16,
    "attn_embed_dim": 16,
    "attn_heads": 2,
    "attn_layers": 2,
    "ff_dim": 32,
    "num_beams": 10,
    "top_k_eval_list": [5, 10],
}


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def copy_package() -> Callable[[Path], None]:
    """A function that copies into a folder what the package is built of."""

    def copy(target: Path) -> None:
        for name in ("genrec", "configs"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, target / name, ignore=ignore)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, target)

    return copy


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets; tests that need them are skipped, and say so, where they are absent."""
    path = Path(os.environ.get("GENREC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real data is absent: no folder {path}; set GENREC_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def write_data() -> WriteData:
    """A function that writes a small leave-one-out data set and opens it."""

    def write(
        path: Path,
        item_keys: Sequence[str],
        embeddings: npt.NDArray[np.floating] | None = None,
        sequences: Sequence[npt.ArrayLike] = (),
        item_titles: Sequence[str] | None = None,
        user_keys: Sequence[str] | None = None,
    ) -> PreparedDataset:
        arrays = [np.zeros(0, dtype=np.int32), *map(np.asarray, sequences)]
        offsets = np.cumsum([len(array) for array in arrays])
        train_ends, valid_ends = leave_one_out(offsets)
        return write_prepared(
            path,
            name="small",
            source="made by the test",
            split_rule="leave-one-out",
            encoder="none",
            item_keys=item_keys,
            item_titles=item_titles or item_keys,
            item_texts=item_keys,
            item_embeddings=np.zeros((len(item_keys), 1)) if embeddings is None else embeddings,
            user_keys=user_keys or [f"user {user}" for user in range(len(sequences))],
            sequence_items=np.concatenate(arrays),
            sequence_offsets=offsets,
            train_ends=train_ends,
            valid_ends=valid_ends,
            card={},
        )

    return write


def bindings(**settings: object) -> list[str]:
    """Write settings of ``train`` as words of a command line."""
    return [word for k, v in settings.items() for word in ("--gin", f"train.{k}={v!r}")]


@pytest.fixture(scope="session")
def launch() -> Launch:
    """A function that runs a script, by default without a launcher, which is fastest.

    With ``processes`` it is launched: one process by Accelerate, more by torchrun, since
    ``accelerate launch --cpu`` starts a single process whatever the number.
    """

    def run(
        script: str, *words: object, processes: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        launcher: list[str] = []
        if processes == 1:
            launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
            launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        elif processes is not None:
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            launcher += ["--nproc_per_node", str(processes)]
        return subprocess.run(
            [sys.executable, *launcher, str(REPOSITORY / "scripts" / script), *map(str, words)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=240,
            env={
                **os.environ,
                "ACCELERATE_USE_CPU": "true",
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
            },
        )

    return run


class Workshop:
    """A folder with prepared data and runs on the sample.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, launch: Launch) -> None:
        self.path, self.launch = path, launch

    def tokenizer(
        self, name: str, *words: str, processes: int | None = None, **settings: object
    ) -> Path:
        """Train stage one; return its run."""
        target = self.path / name
        settings = {
            **STAGE_ONE,
            "save_dir_root": str(target),
            "processed_dir": str(self.path / "processed"),
            **settings,
        }
        config = "configs/rqvae/paper_sample.gin"
        done = self.launch(
            "train_rqvae.py", config, *bindings(**settings), *words, processes=processes
        )
        assert done.returncode == 0, done.stderr
        return target

    def decoder(
        self,
        name: str,
        tokenizer: Path,
        *words: str,
        processes: int | None = None,
        **settings: object,
    ) -> Path:
        """Train stage two; return its run."""
        target = self.path / name
        settings = {
            **STAGE_TWO,
            "save_dir_root": str(target),
            "pretrained_rqvae_path": str(tokenizer),
            **settings,
        }
        config = "configs/decoder/paper_sample.gin"
        done = self.launch(
            "train_decoder.py", config, *bindings(**settings), *words, processes=processes
        )
        assert done.returncode == 0, done.stderr
        return target

    def try_sasrec(
        self,
        target: Path,
        tokenizer: Path,
        *words: str,
        processes: int | None = None,
        **settings: object,
    ) -> subprocess.CompletedProcess[str]:
        """Train the baseline on stage one's data; return what came of it."""
        settings = {
            **SASREC,
            "save_dir_root": str(target),
            "pretrained_rqvae_path": str(tokenizer),
            **settings,
        }
        config = "configs/sasrec/amazon.gin"
        return self.launch(
            "train_sasrec.py", config, *bindings(**settings), *words, processes=processes
        )


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, launch) -> Workshop:
    """Where the runs of this session lie."""
    return Workshop(tmp_path_factory.mktemp("workshop"), launch)


@pytest.fixture(scope="session")
def sample_tokenizer(workshop) -> Path:
    """A finished stage-one run on the sample, with checkpoints at steps 10 and 20."""
    return workshop.tokenizer("rqvae", processes=1)


@pytest.fixture(scope="session")
def sample_decoder(workshop, sample_tokenizer) -> Path:
    """A finished stage-two run on it, with checkpoints at steps 6 and 12."""
    return workshop.decoder("decoder", sample_tokenizer, processes=1)


_ARGUMENTS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update"""


@dataclass
class Visit:
    """A page of a browser, and what it did besides what was asked.

    Attributes:
        page: Of playwright.
        errors: What the console calls errors, what no code caught, and dialogs.
        requests: Addresses that were asked for.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; where there is none, the tests that look at pages are skipped.

    Closed after each module, since no other event loop can run in the thread of playwright's.
    """
    reason = "pages are looked at with playwright: extra dev"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"pages are looked at with a browser: none of {', '.join(names)} is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium) -> Iterator[Callable[..., Visit]]:
    """A function that opens an address or a file; ``options`` are of a browser's context."""
    with contextlib.ExitStack() as opened:

        def open_page(address: str | Path, width: int = 1400, **options: object) -> Visit:
            context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
            opened.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(30_000)  # of a busy machine
            found = Visit(page)
            page.on("console", lambda line: line.type == "error" and found.errors.append(line.text))
            page.on("pageerror", lambda error: found.errors.append(str(error)))
            page.on("dialog", lambda dialog: (found.errors.append("dialog"), dialog.dismiss()))
            page.on("request", lambda request: found.requests.append(request.url))
            page.goto(address.as_uri() if isinstance(address, Path) else address)
            return found

        yield open_page
