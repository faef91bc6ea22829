"""`ferkd-pipeline init DIR --recipe NAME`: begin a project on the user's own images."""

from pathlib import Path

import click

from ferkd_pipeline.plain import say

EPILOG = """
\b
Example:
  ferkd-pipeline init flowers --recipe quick --images photos/train --val photos/val
  cd flowers
  dvc repro                    or, without DVC: ferkd-pipeline stage index, and so on
  ferkd-pipeline init . --update       after a section (score, compare) came to params.yaml

Images lie in class folders: photos/train/rose/1.jpg. A val folder has folders of the same names.
"""


@click.command(epilog=EPILOG, short_help="Begin a project on your own images.")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--recipe", metavar="NAME", help="Recipe; --list shows them.")
@click.option(
    "--update",
    is_flag=True,
    help="Write dvc.yaml anew from the params.yaml in DIR, after sections came or went. Stages of "
    "your own stay.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    default=Path("data/train"),
    show_default=True,
    help="Folder with a folder of training images for each class.",
)
@click.option(
    "--val",
    type=click.Path(path_type=Path),
    default=Path("data/val"),
    show_default=True,
    help="Folder with a folder of validation images for each class.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Write over a params.yaml and dvc.yaml in DIR; the old ones are kept as .bak.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, value: _list(context) if value else None,
    help="List the recipes and exit.",
)
@click.pass_context
def init(
    context: click.Context,
    folder: Path,
    recipe: str | None,
    update: bool,
    images: Path,
    val: Path,
    force: bool,
) -> None:
    """Write params.yaml and dvc.yaml into DIR, from a recipe, for your own class folders of images.

    Relative folders are seen from here or else from DIR. Nothing is copied.
    """
    if update and (recipe is not None or force):
        raise click.UsageError("--update takes params.yaml as it is: no --recipe and no --force.")
    if recipe is None and not update:
        missing = next(each for each in init.params if each.name == "recipe")
        raise click.MissingParameter(ctx=context, param=missing)

    from ferkd_pipeline import scaffold

    if recipe is None:
        made = scaffold.update(folder)
    else:
        made = scaffold.create(folder, recipe, images, val, force=force)
    say(f"{folder}: wrote {', '.join(made.written)}")
    for note in made.notes:
        say(f"Note: {note}", err=True)
    say(f"Next: cd {folder} && dvc repro")


def _list(context: click.Context) -> None:
    from ferkd_pipeline import recipes

    for name in recipes.names():
        click.echo(f"{name:<24}{recipes.summary(name)}")
    context.exit()
