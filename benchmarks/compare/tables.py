"""Markdown tables on standard output, and the text of their cells."""

import json
from pathlib import Path
from statistics import geometric_mean


def line(*texts):
    """Print a row as soon as it is known."""
    print("|", " | ".join(str(text) for text in texts), "|", flush=True)


def heading(titles):
    """Print the first two lines of a table. The titles are separated by commas."""
    titles = titles.split(", ")
    line(*titles)
    line(*["---"] * len(titles))


def mean_of(ratios):
    """The geometric mean of the known ratios, and their number."""
    good = [ratio for ratio in ratios if ratio]
    return f"{geometric_mean(good):.2f}" if good else "–", f"{len(good)} of {len(ratios)}"


def human(seconds):
    """A time in s or ms."""
    return "–" if seconds is None else f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def cells(record):
    """The time of a record in s, or why there is none, and the error."""
    seconds = f"{record['seconds']:.3g}" if record.get("status") == "ok" else record.get("status", "–")
    return seconds, f"{record['error']:.0e}" if "error" in record else "–"


def times(row):
    """The ratio of a row."""
    return f"{row['ratio']:.2f}" if row["ratio"] else "–"


def stored(path):
    """The rows of single plans in a file of results, of one run or of several, by dtype and size."""
    content, groups = json.loads(Path(path).read_text()), {}
    for run in content.get("runs", [content]):
        for row in run["rows"]:
            if row["kind"] == "plan":
                groups.setdefault((row["dtype"], row["n"]), []).append(row)
    return groups
