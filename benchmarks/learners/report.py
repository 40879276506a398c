"""Tables and pictures of what runs left, in docs/learning.md."""

import json
import statistics

from page import fill_page

from keras_sepvit.benchmark.machine import sentences
from keras_sepvit.benchmark.report import markdown_table
from learners.networks import TITLES
from learners.picture import draw_curves
from learners.plans import EQUAL_SECONDS, OF_FEWER, SOURCE, SWINS, WAYS

# A way is advertised if it is ahead of random weights by more than this in every seed, in points.
AHEAD = 2

_PACKAGES = "keras keras-hub tensorflow jax torch".split()


def write_networks(folder, docs, setting):
    """Puts the comparison of networks into its part of the page."""
    results = read_results(folder)
    titles = {**TITLES, EQUAL_SECONDS: "Swin, as many seconds as SepViT"}
    finished = [name for name in titles if len(results.get(name, ())) == setting.seeds]
    if "sepvit" not in finished:
        raise SystemExit(f"{folder} has not all runs of SepViT, with which others are compared.")
    rows = [network_row(titles[name], results[name], results["sepvit"]) for name in finished]
    left = "; ".join(title for name, title in titles.items() if name not in finished)
    header = ["network", "epochs", "M parameters", "M MACs", "top-1, %, mean (lowest to highest)"]
    made = _made(folder)
    seconds = "seconds of the GPU" if made["gpu"] else "seconds of a core"
    header += ["SepViT is ahead by, points", seconds]
    _write(
        docs,
        "networks",
        made,
        f"{setting.pictures:,} pictures of ten classes, {setting.image_size} x "
        f"{setting.image_size}; {setting.seeds} seeds; batches of {setting.batch_size}."
        + (f" Not run: {left}." if left else ""),
        markdown_table(header, rows),
        {titles[name]: results[name] for name in finished},
    )


def write_ways(folder, docs, setting):
    """Puts the experiment on ways to begin into its part of the page."""
    results = read_results(folder)
    titles = {**WAYS, **SWINS}
    rows = [way_row(title, results[name], results["scratch"]) for name, title in titles.items()]
    _write(
        docs,
        "ways",
        _made(folder),
        f"{setting.few:,} pictures of five classes, {setting.image_size} x {setting.image_size}, "
        f"{setting.few_epochs} epochs. {_of_source(setting, results)}",
        markdown_table(_header_of_ways(setting), rows),
        {title: results[name] for name, title in titles.items()},
    )


def write_fewer(folder, docs, setting):
    """Puts the ways to begin with fewer pictures into their part of the page."""
    results = read_results(folder)
    titles = {**WAYS, **SWINS}
    rows, steps = [], []
    for pictures in setting.fewer:
        of_number = {name: results[f"{name}_{pictures}"] for name in OF_FEWER}
        for name, of_arm in of_number.items():
            rows.append([f"{pictures:,}", *way_row(titles[name], of_arm, of_number["scratch"])])
        run = of_number["scratch"][0]["run"]
        times = run["passes"] * run["epochs"]
        count = pictures * times // run["batch_size"]
        steps.append(f"{pictures:,}, each seen {times} times in {count:,} steps")
    _write(
        docs,
        "fewer",
        _made(folder),
        f"Pictures of five classes, {setting.image_size} x {setting.image_size}, in batches of "
        f"{run['batch_size']}: {'; '.join(steps)}. {_of_source(setting, results)}",
        markdown_table(["pictures", *_header_of_ways(setting)], rows),
        {name: of_arm for name, of_arm in results.items() if name != SOURCE},
        drawn=False,
    )


def _header_of_ways(setting):
    header = ["way", *(f"top-1, %, seed {seed}" for seed in range(setting.seeds))]
    return [*header, "ahead of (a) by, points", f"by more than {AHEAD} in every seed"]


def _of_source(setting, results):
    return (
        f"The Swin to begin from was trained on {setting.source:,} pictures of the other five "
        f"for {setting.epochs} epochs, and tells these apart in "
        f"{results[SOURCE][0]['top1'][-1]:.1f} % of the test pictures."
    )


def read_results(folder):
    """What runs left, by arm: lists in the order of seeds."""
    results = {}
    for path in folder.glob("*-*.json"):
        result = json.loads(path.read_text())
        results.setdefault(result["run"]["name"], []).append(result)
    return {
        name: sorted(of_arm, key=lambda result: result["run"]["seed"])
        for name, of_arm in results.items()
    }


def network_row(title, results, ours):
    """A network's row of the table; `ours` are the results that it is compared with."""
    first, final = results[0], _final(results)
    ahead = [own - other for own, other in zip(_final(ours), final, strict=True)]
    return [
        title,
        str(first["run"]["epochs"]),
        f"{first['parameters'] / 1e6:.2f}",
        f"{first['macs'] / 1e6:.2f}",
        f"{statistics.mean(final):.1f} ({min(final):.1f} to {max(final):.1f})",
        "" if results is ours else _points(ahead),
        f"{statistics.median(result['seconds'][-1] for result in results):.0f}",
    ]


def way_row(title, results, scratch):
    """A way's row of the table, compared with random weights seed by seed."""
    final = _final(results)
    ahead = [own - other for own, other in zip(final, _final(scratch), strict=True)]
    same = results is scratch
    verdict = "yes" if min(ahead) > AHEAD else "no"
    return [
        title,
        *(f"{top1:.1f}" for top1 in final),
        "" if same else _points(ahead),
        verdict if title in WAYS.values() and not same else "",
    ]


def _final(results):
    return [result["top1"][-1] for result in results]


def _points(ahead):
    return f"{statistics.mean(ahead):+.1f} ({min(ahead):+.1f} to {max(ahead):+.1f})"


def _made(folder):
    """How the runs of a folder were made."""
    return json.loads((folder / "made.json").read_text())


def _write(docs, part, made, what, table, results, drawn=True):
    size = "" if made["setting"] == "small" else f"_{made['setting']}"
    of_runs = [result for of_arm in results.values() for result in of_arm]
    backend = of_runs[0]["backend"]
    commits = ", ".join(sorted({result["commit"] for result in of_runs}))
    text = (
        f"Commit {commits}. Command: `python benchmarks/learning.py --data FOLDER --part "
        f"{part} --setting {made['setting']}{' --gpu' if made['gpu'] else ''}`, backend "
        f"{backend}.\n\n{what}\n\n{table}\n\n"
        f"{sentences(made['machine'], _PACKAGES)}"
    )
    if drawn:
        picture = f"learning_{part}{size}.png"
        draw_curves(docs / picture, results)
        text += f"\n\n![accuracy]({picture})"
    fill_page(docs / "learning.md", {f"learning-{part}{size}".replace("_", "-"): text})
