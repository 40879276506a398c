"""Puts the tables of benchmarks into pages of docs/."""

from keras_sepvit.files import replacing


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
