"""The lowest versions that setup.cfg allows, as constraints for pip; see `make test-oldest`.

python tests/oldest.py > constraints-oldest.txt
"""

import configparser
import pathlib
import re

SETUP = pathlib.Path(__file__).parents[1] / "setup.cfg"


def lowest(text):
    """`name==version` of each requirement that a setup.cfg has, in order, each once.

    Raises:
        ValueError: for a requirement without a lower bound, and for two bounds of one package.
    """
    config = configparser.ConfigParser()
    config.read_string(text)
    required = config["options"]["install_requires"]
    required += "".join(config["options.extras_require"].values())
    bounds = {}
    for line in required.split("\n"):
        if not line or line.startswith(("#", "keras-sepvit[")):
            continue
        match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:,|$)", line)
        if match is None:
            raise ValueError(f"setup.cfg: no lower bound in {line!r}. Write such as name>=1.2,<2.")
        name, bound = match.groups()
        if bounds.setdefault(name, bound) != bound:
            raise ValueError(f"setup.cfg: {name} has the lower bounds {bounds[name]} and {bound}.")
    return [f"{name}=={bound}" for name, bound in bounds.items()]


if __name__ == "__main__":
    print("\n".join(lowest(SETUP.read_text())))
