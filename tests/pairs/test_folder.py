"""A folder of answers: an interrupted run goes on from it, and gives the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import otkit
from otkit.pairs import blocks, store
from otkit.solvers.exact import packed


@pytest.fixture
def measures(rng):
    return [(rng.random((n, 2)), rng.dirichlet(np.ones(n))) if n % 2 else rng.random((n, 2)) for n in range(3, 15)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 3 × 3 of the 12 measures."""
    monkeypatch.setattr("otkit.pairs.face.side_for", lambda *_: 3)


class Solved(list):
    """The pairs that are solved, up to a number of which the next one is an interruption."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.most, solve = np.inf, packed.solve

        def counted(clouds, first, second, stop):
            if len(self) >= self.most:
                raise KeyboardInterrupt
            self.extend(zip(first, second, strict=True))
            return solve(clouds, first, second, stop)

        monkeypatch.setattr(packed, "solve", counted)


@pytest.fixture
def solved(monkeypatch):
    return Solved(monkeypatch)


@pytest.fixture
def interrupted(measures, tmp_path, solved):
    """A folder with two blocks, of 3 and of 9 pairs."""
    solved.most = 12
    with pytest.raises(KeyboardInterrupt):
        otkit.pairwise(measures, folder=tmp_path / "pairs", workers=1)
    solved.clear()
    solved.most = np.inf
    return tmp_path / "pairs"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".npy"}


def same(one, other):
    for name, v in one.condensed.arrays.items():
        assert_array_equal(v, other.condensed.arrays[name])


def test_the_folder_has_the_result(measures, tmp_path):
    found = otkit.pairwise(measures, names=list("abcdefghijkl"), folder=str(tmp_path / "pairs"))
    same(found, otkit.pairwise(measures))
    assert isinstance(found.condensed.distance, np.memmap)
    assert not found.condensed.distance.flags.writeable
    assert {path.name for path in (tmp_path / "pairs").iterdir()} == {
        "question.json", "distance.npy", "lower.npy", "upper.npy", "status.npy",
    }  # fmt: skip
    question, answers = store.loaded([tmp_path / "pairs"])
    assert (question.names, question.p, question.rows) == (list("abcdefghijkl"), 2.0, 12)
    assert_array_equal(answers.upper, found.condensed.upper)


def test_an_interrupted_run_goes_on(measures, interrupted, solved):
    assert len(list((interrupted / "blocks").iterdir())) == 2
    found = otkit.pairwise(measures, folder=interrupted)
    assert len(solved) == 66 - 12
    same(found, otkit.pairwise(measures))
    solved.clear()
    same(found, otkit.pairwise(measures, folder=interrupted, workers=3))
    assert not solved


def test_other_blocks_do_not_matter_to_a_folder(measures, interrupted, solved, monkeypatch):
    monkeypatch.setattr("otkit.pairs.face.side_for", lambda *_: 5)
    found = otkit.pairwise(measures, folder=interrupted)
    assert len(solved) == 66 - 12
    same(found, otkit.pairwise(measures))


@pytest.mark.parametrize("damage", [lambda content: content[:-5], lambda content: content[:-1] + b"\7", lambda _: b""])
def test_a_damaged_block_is_solved_again(measures, interrupted, solved, damage):
    block = interrupted / "blocks" / "0-1"
    block.write_bytes(damage(block.read_bytes()))
    same(otkit.pairwise(measures, folder=interrupted), otkit.pairwise(measures, workers=1))
    assert len(solved) == 66 - 3 + 66


@pytest.mark.parametrize("name", ["distance", "lower", "upper", "status"])
@pytest.mark.parametrize("damage", [lambda content: content[:-5], lambda _: b"", lambda _: b"x" * 500, None])
def test_a_damaged_array_is_solved_again(measures, tmp_path, solved, name, damage):
    folder = tmp_path / "pairs"
    otkit.pairwise(measures, folder=folder)
    file = folder / f"{name}.npy"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="blocks are missing in "):
        store.loaded([folder])
    same(otkit.pairwise(measures, folder=folder), otkit.pairwise(measures))
    assert len(solved) == 3 * 66


def test_a_damaged_folder_is_filled_from_another(measures, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    wanted = {name: v.copy() for name, v in otkit.pairwise(measures, folder=one).condensed.arrays.items()}
    shutil.copytree(one, other)
    (one / "status.npy").unlink()
    (one / "lower.npy").unlink()
    _, answers = store.loaded([one, other])
    for name, v in answers.arrays.items():
        assert_array_equal(v, wanted[name])


@pytest.mark.parametrize("order", ["behind", "between", "before"])
@pytest.mark.parametrize("finished", [False, True])
def test_more_measures_keep_the_pairs_of_the_others(measures, interrupted, solved, rng, order, finished):
    if finished:
        otkit.pairwise(measures, folder=interrupted)
        solved.clear()
    at = {"behind": 12, "between": 5, "before": 0}[order]
    more = [*measures[:at], rng.random((4, 2)), *measures[at:]]
    found = otkit.pairwise(more, folder=interrupted)
    assert len(solved) == 78 - (66 if finished else 12)
    same(found, otkit.pairwise(more))


def test_an_interrupted_run_with_more_measures_goes_on(measures, interrupted, solved, rng):
    more = [*measures[:7], rng.random((4, 2)), *measures[7:]]
    solved.most = 30
    with pytest.raises(KeyboardInterrupt):
        otkit.pairwise(more, folder=interrupted, workers=1)
    assert (interrupted / "before").is_dir()
    solved.most = np.inf
    solved.clear()
    most = [rng.random((5, 2)), *more]
    same(otkit.pairwise(most, folder=interrupted), otkit.pairwise(most, workers=1))
    assert len(solved) < 91 - 30 + 9 + 91
    assert not (interrupted / "before").exists()


def test_two_lists(measures, tmp_path, solved):
    folder = tmp_path / "pairs"
    found = otkit.pairwise(measures[:5], measures[5:], folder=folder)
    assert found.distance.shape == (5, 7)
    same(found, otkit.pairwise(measures[:5], measures[5:]))
    solved.clear()
    found = otkit.pairwise(measures[:5], [*measures[5:], measures[0]], folder=folder)
    assert len(solved) == 5
    assert_array_equal(found.distance[:, :7], otkit.pairwise(measures[:5], measures[5:]).distance)
    with pytest.raises(ValueError, match="measures that are not among these"):
        otkit.pairwise(measures, folder=folder)


@pytest.mark.parametrize("change", ["points", "weights", "fewer", "p", "metric", "rtol", "max_iter", "reg"])
def test_answers_to_another_question_are_refused(measures, interrupted, solved, change):
    files, options, words = sorted(interrupted.rglob("*")), {}, "answers for measures that are not among these"
    if change == "points":
        measures[0] = measures[0][0] + 1e-9, measures[0][1]
    elif change == "weights":
        measures[0] = measures[0][0], measures[0][1][::-1].copy()
    elif change == "fewer":
        measures = measures[1:]
    else:
        options = {change: {"p": 1, "metric": "cityblock", "rtol": 0.1, "max_iter": 10, "reg": 1.0}[change]}
        words = rf"has answers for .*{change}=.*, asked for are .*{change}={options[change]!r}"
    with pytest.raises(ValueError, match=f"{words}.*give the name of a new folder"):
        otkit.pairwise(measures, folder=interrupted, **options)
    assert sorted(interrupted.rglob("*")) == files
    assert not solved


@pytest.mark.parametrize("what", ["file", "folder", "json", "version"])
def test_something_else_is_refused(measures, tmp_path, solved, what):
    path = tmp_path / "results"
    if what == "file":
        path.write_text("x,y\n1,2\n")
    else:
        path.mkdir()
        other = {"folder": "", "json": "[]", "version": json.dumps({"format": "otkit pairs 0", "statuses": []})}[what]
        (path / ("notes.txt" if what == "folder" else "question.json")).write_text(other)
    with pytest.raises(ValueError, match="not a folder of pairwise answers; give the name of"):
        otkit.pairwise(measures, folder=path)
    assert not solved


def test_shares_are_joined(measures, tmp_path, solved):
    folder = tmp_path / "pairs"
    for share in (2, 3):
        assert otkit.pairwise(measures, folder=folder, block=(share, 3)) is None
    part = len(solved)
    assert 30 < part < 60
    with pytest.raises(ValueError, match=r"of 10 blocks are missing in .*; wait for the other shares"):
        store.loaded([folder])
    otkit.pairwise(measures, folder=folder, block=(1, 3))
    assert len(solved) == 66
    found = otkit.pairwise(measures, folder=folder)
    assert len(solved) == 66
    same(found, otkit.pairwise(measures))
    assert otkit.pairwise(measures, folder=folder, block=(1, 3)) is None  # the same job once more


def test_shares_in_folders_of_their_own_are_joined_in_the_first(measures, tmp_path, solved):
    folders = [tmp_path / f"share{k}" for k in (1, 2)]
    for k, folder in enumerate(folders):
        otkit.pairwise(measures, folder=folder, block=(k + 1, 2))
    assert len(solved) == 66
    _, answers = store.loaded(folders)
    assert_array_equal(answers.distance, otkit.pairwise(measures).condensed.distance)
    assert (folders[0] / "distance.npy").exists()
    otkit.pairwise(measures, p=1, folder=tmp_path / "other", block=(1, 2))
    with pytest.raises(ValueError, match="answers to different questions"):
        store.loaded([folders[1], tmp_path / "other"])
    with pytest.raises(ValueError, match="not a folder of pairwise answers"):
        store.loaded([tmp_path / "nowhere"])


def test_a_share_says_what_did_not_converge(measures, tmp_path):
    with pytest.warns(otkit.ConvergenceWarning, match="pairs did not converge; 0 and 1: "):
        otkit.pairwise(measures, folder=tmp_path / "pairs", block=(1, 2), max_iter=1)


RUN = """
    import sys
    import numpy as np
    import otkit
    from otkit.pairs import face, store

    face.side_for = lambda *_: 8
    kept, asked = store.Folder.keep, sys.argv[2:]

    def slowly(*arguments):
        kept(*arguments)
        print("kept", flush=True)
        if asked:
            sys.stdin.readline()

    store.Folder.keep = slowly
    clouds = list(np.random.default_rng(0).random((90, 5, 1)))
    otkit.pairwise(clouds, folder=sys.argv[1])
"""


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(RUN)]
    subprocess.run([*command, tmp_path / "whole"], check=True, stdout=subprocess.DEVNULL)
    with subprocess.Popen(
        [*command, tmp_path / "killed", "slowly"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        for _ in range(12):  # each block waits for a line once it is kept
            assert run.stdout.readline() == "kept\n"
            run.stdin.write("\n")
            run.stdin.flush()
        os.kill(run.pid, signal.SIGKILL)
        run.stdin.close()
        assert run.wait() == -signal.SIGKILL
    done = len(list((tmp_path / "killed" / "blocks").iterdir()))
    assert done >= 12
    assert not (tmp_path / "killed" / "distance.npy").exists()
    again = subprocess.run([*command, tmp_path / "killed"], check=True, capture_output=True, text=True)
    count = len(blocks.Grid(store.Layout(90), 8).blocks)
    assert count - done - 1 <= again.stdout.count("kept") <= count - 12
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 4


def test_a_run_that_is_killed_at_any_time_goes_on(tmp_path):
    """Killed with no regard to what it does, also where it joins the blocks."""
    command = [sys.executable, "-c", textwrap.dedent(RUN)]
    subprocess.run([*command, tmp_path / "whole"], check=True, stdout=subprocess.DEVNULL)
    for delay in np.random.default_rng(0).uniform(0.0, 0.4, 4):
        with subprocess.Popen([*command, tmp_path / "killed"], stdout=subprocess.PIPE, text=True) as run:
            run.stdout.readline()
            time.sleep(delay)
            run.kill()
    subprocess.run([*command, tmp_path / "killed"], check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
