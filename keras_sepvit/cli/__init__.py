"""The command line, `keras-sepvit`: one module and one function a command.

The modules of commands import Keras, and all else that is slow to import, inside
their functions: a command's help and its refusals come at once.
"""

from typing import Annotated

import typer

from keras_sepvit import __version__
from keras_sepvit.cli import benchmark, convert, evaluate, export, predict, summary, train
from keras_sepvit.cli.common import reports_bad_input
from keras_sepvit.cli.quiet import only_own_lines

# In the order of `keras-sepvit --help`. A command's name is that of its function.
COMMANDS = (
    summary.summary,
    predict.predict,
    convert.convert,
    train.train,
    evaluate.evaluate,
    export.export,
    benchmark.benchmark,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked):
    if asked:
        typer.echo(f"keras-sepvit {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
):
    """SepViT (arXiv 2203.15380) for Keras 3."""


for command in COMMANDS:
    # An option that `train` lacks may be meant as a setting of the recipe, which it tells itself.
    settings = {"ignore_unknown_options": command is train.train}
    app.command(context_settings=settings)(reports_bad_input(command))


def main():
    """Runs the command line."""
    only_own_lines()
    app()
