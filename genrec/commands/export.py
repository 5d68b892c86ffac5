"""``genrec export``: a run as what other runtimes serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from genrec.commands import add_command
from genrec.errors import ConfigError

__all__ = ["ExportArguments", "app_command"]

#: What messages of the library call otherwise than the options here.
_OPTIONS = {
    "precision": "--precision",
    "least_share": "--least-share",
    "num_users": "--users",
    "overwrite=True": "--force",
    "folder to save to": "--onnx",
}


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """What ``genrec export`` is told."""

    run_dir: Annotated[Path, typer.Argument(help="A run of a decoder or of SASRec.")]
    onnx: Annotated[
        Path | None,
        typer.Option(help="Folder to make, which onnxruntime serves without torch."),
    ] = None
    precision: Annotated[
        str,
        typer.Option(
            help="fp32; fp16 or bf16, weights kept in 16 bits and computed with in 32; int8, "
            "matrices multiplied in 8 bits."
        ),
    ] = "fp32"
    users: Annotated[
        int, typer.Option(min=1, help="Users for whom it is compared with the run.")
    ] = 1000
    least_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of them who must get the same ten items; else it is refused."
        ),
    ] = 0.99
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set that the users are of. [the run's]")
    ] = None
    force: Annotated[bool, typer.Option(help="Replace a folder that is there.")] = False


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: ExportArguments) -> None:
        from genrec.runs import find_run
        from genrec.serving.recommender import Recommender

        if told.onnx is None:
            raise ConfigError("--onnx must be given, got nothing; name the folder to make")
        recommender = Recommender.from_pretrained(
            find_run(told.run_dir), data=told.data, device="cpu"
        )
        meta = recommender.save_onnx(
            told.onnx,
            precision=told.precision,
            least_share=told.least_share,
            num_users=told.users,
            overwrite=told.force,
        )
        check = meta["check"]
        print(
            f"compared for {check['users']:,} users: the same ten items for "
            f"{check['same_top_10']:.1%}, in the same order for {check['same_order']:.1%}, their "
            f"scores within {check['largest_difference']:.1g}"
        )
        size = sum(file.stat().st_size for file in told.onnx.rglob("*") if file.is_file())
        print(
            f"wrote {told.onnx}: {recommender.num_items:,} items, {meta['precision']}, "
            f"{size / 1e6:.1f} MB"
        )

    about = "Write a run as ONNX graphs and arrays that onnxruntime serves without torch."
    add_command(app, "export", ExportArguments, work, about=about, options=_OPTIONS)
