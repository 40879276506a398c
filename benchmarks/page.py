"""Puts the tables of benchmarks into pages of docs/."""

import argparse
import pathlib
import subprocess

from keras_sepvit.files import replacing

ROOT = pathlib.Path(__file__).parents[1]

# What a figure depends on: not the pages, which the figures change.
CODE = ("keras_sepvit", "benchmarks", "examples", "setup.cfg", "constraints.txt")


def page_parser(text):
    """A parser of the command line of a script that fills a page.

    Args:
        text: What `--help` tells: the script's docstring.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--docs", type=pathlib.Path, default=ROOT / "docs", help="folder of the pages"
    )
    return parser


def commit():
    """The commit that measures, in short, followed by "with changes" where its code is changed."""

    def git(*arguments):
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    changes = git("status", "--porcelain", "--", *CODE)
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changes else "")


def fill_page(path, blocks):
    """Puts texts between their marks, `<!-- name -->` and `<!-- end of name -->`, in a page.

    Args:
        path: The Markdown page.
        blocks: The texts by name.

    Raises:
        SystemExit: if the page lacks the marks of a name; it stays as it was.
    """
    text = path.read_text()
    for name, block in blocks.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not end:
            raise SystemExit(f"{path} has no marks for '{name}'.")
        text = f"{before}{start}{block}\n{end}{after}"
    with replacing(path) as temporary:
        temporary.write_text(text)
