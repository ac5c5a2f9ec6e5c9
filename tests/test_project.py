"""What the project promises about itself."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import otkit

ROOT = Path(__file__).parent.parent
# Of examples: no program is there to be found, and one thread leaves the others to the tests that run beside them.
ENVIRONMENT = {"MPLBACKEND": "agg", "PATH": "", "OMP_NUM_THREADS": "1"} | {
    name: os.environ[name] for name in ("NUMBA_CACHE_DIR", "PYTHONPATH") if name in os.environ
}
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))


def python(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "work",
    ["", "otkit.solve([[0.0, 1.0]], reg=1.0).value", "otkit.wasserstein([[0.0, 1.0]], [[1.0, 1.0]]).distance",
     "import otkit.cli; otkit.cli.main(['info'])", "import otkit.attention; dir(otkit.attention)"],
    ids=["import", "solve", "wasserstein", "command line", "attention"],
)  # fmt: skip
def test_no_optional_library_is_loaded(work):
    heavy = "{'torch', 'transformers', 'triton', 'cupy', 'matplotlib', 'array_api_strict', 'h5py', 'pandas', 'pyarrow'}"
    run = python(
        f"import otkit, sys\n{work}\nassert not {heavy} & set(sys.modules), sorted({heavy} & set(sys.modules))"
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("name", "library"), [("importance", "torch"), ("SinkCache", "transformers")])
def test_attention_without_its_libraries_names_the_extra(name, library):
    run = python(f"import sys\nsys.modules[{library!r}] = None\nimport otkit.attention\notkit.attention.{name}")
    assert run.returncode == 1
    assert f"ImportError: otkit.attention.{name} needs {library}; install it with: pip install 'otkit[attention]'" in (
        run.stderr
    )


def test_importing_loads_no_submodule():
    run = python("import sys, otkit\nprint(sorted(name for name in sys.modules if name.startswith('otkit')))")
    assert run.stdout.strip() == "['otkit']"


# With the library that each needs.
ROOMS = {
    "": None, "losses": "torch", "attention": "transformers", "sklearn": "sklearn", "pot": None, "pot.bregman": None,
    "pot.gaussian": None, "pot.lp": None, "pot.partial": None, "pot.sliced": None, "pot.unbalanced": None,
}  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_example_and_a_place_in_the_reference(room):
    if ROOMS[room]:
        pytest.importorskip(ROOMS[room])
    module = import_module(f"otkit.{room}".rstrip("."))
    names = set(re.findall(r"^   ([\w.]+)$", (ROOT / "docs" / "reference" / "index.md").read_text(), re.MULTILINE))
    found = {name: getattr(module, name) for name in module.__all__}
    found = {name: value for name, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)}
    assert set(found) <= set(dir(module))
    assert [name for name, value in found.items() if ">>> " not in value.__doc__] == []
    assert [name for name in found if not names & {name, f"{room}.{name}", f"pot.{name}"}] == []


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'sinkhorn_knopp'"):
        _ = otkit.sinkhorn_knopp


# What shortens the examples that take long.
SHORTER = {
    "plot_batch": ("images[:300]", "images[:30]", "target[:300]", "target[:30]"),
    "plot_distillation": ("epochs=25", "epochs=2", "in range(5)", "in range(1)"),
    "plot_fit_histogram": ("range(60)", "range(4)"),
    "plot_gradient_numpy": ("1.6, 25", "1.6, 4"),
    "plot_gradient_flow": ("steps=30", "steps=4"),
    "plot_masked_clips": ("= 1, 1200, 32", "= 1, 8, 32"),
}


@pytest.fixture(scope="module")
def run_script():
    """Run a script in a process of its own, forked where the libraries that examples share are loaded: its errors."""
    command = [sys.executable, "-W", "error", str(Path(__file__).parent / "forking.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT
    ) as server:

        def run(path, printed):
            server.stdin.write(f"{path}\n{printed}\n")
            server.stdin.flush()
            return server.stdout.readline().strip(), printed.read_text()

        yield run
        server.stdin.close()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, run_script, tmp_path):
    code = path.read_text()
    assert len(code.splitlines()) <= 110
    if "import torch" in code:
        pytest.importorskip("torch")
    if path.stem in SHORTER:
        changes = SHORTER[path.stem]
        for long, short in zip(changes[::2], changes[1::2], strict=True):
            assert code.count(long) == 1
            code = code.replace(long, short)
        path = tmp_path / path.name
        path.write_text(code)
    status, printed = run_script(path, tmp_path / "printed")
    assert status == "0", printed


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORTER)
def test_long_examples_run_to_their_end(name):
    pytest.importorskip("torch")
    run = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py")],
        capture_output=True, text=True, check=False, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_the_version_is_stated_once_each():
    assert f'version = "{otkit.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {otkit.__version__}" in (ROOT / "CITATION.cff").read_text()


def consoles(page):
    """The console blocks of a page, each a list of commands with the output shown for them."""
    for block in re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        yield [part.partition("\n")[::2] for part in parts]


def rounded(text):
    """Numbers in four digits, and times as zero."""
    text = re.sub(r"\d+\.\d\d s\b", "0.00 s", re.sub(r'"seconds": [^,]*', '"seconds": 0', text))
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", text)


def test_the_command_line_prints_what_its_page_shows(tmp_path):
    shutil.copytree(ROOT / "examples" / "data", tmp_path / "examples" / "data")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for commands in consoles("docs/command_line.md"):
        folder, status = tmp_path, 0
        for command, shown in commands:
            if command.startswith("cd "):
                folder = tmp_path / command[3:]
            elif command.startswith("cat "):
                (folder / command[4:]).write_text(shown)
            elif command == "echo $?":
                assert f"{status}\n" == shown
            else:
                status, printed = shell(command, folder, environment)
                assert rounded(printed) == rounded(shown)


def shell(command, folder, environment):
    run = subprocess.run(
        command, shell=True, cwd=folder, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return run.returncode, run.stdout


def test_the_readme_shows_what_its_first_command_prints():
    text = (ROOT / "README.md").read_text()
    shown = re.search(r"```text\n(W2 .*?)```", text, re.DOTALL)[1]
    command = re.search(r"\.venv/bin/otkit (w2 \S+ \S+)\n", text)[1].split()
    run = subprocess.run(
        [sys.executable, "-m", "otkit", *command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert rounded(run.stdout) == rounded(shown)
