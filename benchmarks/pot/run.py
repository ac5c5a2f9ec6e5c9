"""Run POT's own tests against `otkit.pot`, and count those that pass.

python benchmarks/pot/run.py PATH        # of a checkout of POT, of which only the folder test/ is used
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = (
    "test_ot.py", "test_bregman.py", "test_1d_solver.py", "test_solvers.py", "test_utils.py", "test_partial.py",
    "test_gaussian.py", "unbalanced", "sliced",
)  # fmt: skip


def run(checkout, options=()):
    """The verdict of each test: (kind, reason) by its name."""
    with tempfile.TemporaryDirectory() as folder:
        verdicts = Path(folder) / "verdicts.json"
        disabled = {f"POT_BACKEND_DISABLE_{name}": "1" for name in ("JAX", "TENSORFLOW", "CUPY")}
        path = os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, **disabled, "PYTHONPATH": path, "OTKIT_POT_VERDICTS": str(verdicts)}
        files = [name for name in FILES if (checkout / "test" / name).exists()]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "plugin", "-p", "no:cacheprovider", *options, *files]
        shown = subprocess.run(
            command, cwd=checkout / "test", env=environment, check=False, text=True, capture_output=True
        )
        if not verdicts.exists():
            raise SystemExit(shown.stdout + shown.stderr)
        return json.loads(verdicts.read_text())


def report(verdicts):
    """The counts and lists as text, and whether nothing is wrong."""
    kinds = collections.defaultdict(list)
    for name, (kind, why) in verdicts.items():
        kinds[kind].append((name, why))
    wrong = kinds["failed"] + kinds["passes though left out"]
    lines = [f"{name}: {why}" for name, why in wrong]
    for kind in ("left out", "skipped"):
        counts = collections.Counter(why for _, why in kinds[kind])
        lines += [f"{kind}: {count} tests: {why}" for why, count in counts.items()]
    ours = len(kinds["passed"]) + len(wrong)
    lines.append(
        f"{len(verdicts)} tests collected, {len(kinds['other'])} of them on functions that otkit.pot does not have"
    )
    lines.append(f"{len(kinds['left out'])} left out and {len(kinds['skipped'])} that skip what is refused")
    lines.append(f"{len(kinds['passed'])} passed of {ours}")
    return "\n".join(lines), not wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of a checkout of POT")
    parser.add_argument("options", nargs="*", help="options of pytest, after --")
    given = parser.parse_args()
    text, right = report(run(given.checkout.resolve(), given.options))
    print(text)
    sys.exit(not right)
