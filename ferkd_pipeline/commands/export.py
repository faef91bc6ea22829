"""`ferkd-pipeline export`: the student as a plain file of weights, for other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.plain import say
from store.units import readable_bytes

EPILOG = """
\b
Examples:
  ferkd-pipeline export student.safetensors                    for timm, or where it comes from
  ferkd-pipeline export student.pth --to torchvision           refused where torchvision differs
  ferkd-pipeline export body.safetensors --backbone            for detection or segmentation
  ferkd-pipeline export teacher.safetensors --model models/teacher

docs/detection.md shows how a detector takes such a backbone.
"""


@click.command(epilog=EPILOG, short_help="Write the student's weights for other programs.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("models/student"),
    show_default=True,
    help="Folder of the saved model.",
)
@click.option(
    "--to",
    type=click.Choice(["timm", "torchvision"]),
    help="Library whose model of that name must take the weights and compute the same with them; "
    "by default the one that the model comes from.",
)
@click.option("--backbone", is_flag=True, help="Leave the classifier out.")
@click.option("--force", is_flag=True, help="Replace FILE.")
@params_option
@json_option
def export(
    file: Path,
    folder: Path,
    to: Literal["timm", "torchvision"] | None,
    backbone: bool,
    force: bool,
    params_path: Path,
    as_json: bool,
) -> None:
    """Write the weights of a saved model to FILE as a plain state dict: .safetensors, or .pth for
    torch.load(weights_only=True). Prints the line of Python that loads it.
    """
    from ferkd_pipeline import exporting

    done = exporting.export(
        folder, file, to=to, backbone=backbone, force=force, params_path=params_path
    )
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    say(f"{done.file}: {done.num_tensors} tensors, {readable_bytes(done.num_bytes)}")
    say(done.how_to_load)
