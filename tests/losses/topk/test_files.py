"""Files of a teacher's leading entries: what was written is read, and layouts of others."""

import subprocess
import sys

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from otkit.losses import TopK, read_topk, write_topk


def same(found, wanted):
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.logprobs, wanted.logprobs)
    assert (found.tail, found.vocab_size) == (wanted.tail, wanted.vocab_size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_round_trip(tmp_path, ending, dtype):
    indices = torch.tensor([[3, 9, 1], [-1, 4, -1], [7, 2, 0]])
    logprobs = torch.log_softmax(torch.arange(12.0).reshape(3, 4), -1)[:, :3].to(dtype)
    path = tmp_path / f"teacher.{ending}"
    for options in (("renormalise", None), ("one bucket", 12)):
        teacher = TopK(indices, logprobs, *options)
        write_topk(path, teacher)
        found, part = read_topk(path), read_topk(str(path), slice(1, 3))
        if ending == "safetensors":
            same(found, teacher)
            same(part, teacher[1:])
        else:  # without gaps, and without bfloat16
            for v, wanted in ((found, teacher), (part, teacher[1:])):
                assert torch.equal(
                    torch.softmax(v.logits(12), -1), torch.softmax(wanted.upcast().logits(12).to(v.logprobs.dtype), -1)
                )
            assert (found.tail, found.vocab_size) == options
    assert read_topk(path, tail="uniform").tail == "uniform"


def test_axes_are_kept_by_safetensors_and_rows_by_parquet(tmp_path):
    teacher = TopK(torch.arange(12).reshape(2, 3, 2), torch.full((2, 3, 2), -1.0))
    for ending, shape in (("safetensors", (2, 3, 2)), ("parquet", (6, 2))):
        write_topk(tmp_path / f"a.{ending}", teacher)
        same(read_topk(tmp_path / f"a.{ending}"), teacher.reshape(*shape))


def test_what_others_wrote(tmp_path):
    save_file(
        {"indices": torch.tensor([[3, 1]], dtype=torch.int16), "logprobs": torch.tensor([[-1.0, -2.0]]).double()},
        tmp_path / "a.safetensors",
    )
    lists = {
        "indices": [[3, 1], None, [2]],
        "logprobs": [np.array([-1.0, -2.0]), None, [-0.5]],
        "text": ["a", "b", "c"],
    }
    parquet.write_table(pyarrow.table(lists), tmp_path / "a.parquet", row_group_size=2)
    same(read_topk(tmp_path / "a.safetensors"), TopK(torch.tensor([[3, 1]]), torch.tensor([[-1.0, -2.0]]).double()))
    wanted = torch.tensor([[-1.0, -2.0], [-torch.inf] * 2, [-0.5, -torch.inf]]).double()
    same(read_topk(tmp_path / "a.parquet"), TopK(torch.tensor([[3, 1], [-1, -1], [2, -1]]), wanted))
    same(read_topk(tmp_path / "a.parquet", slice(2, None)), TopK(torch.tensor([[2]]), wanted[2:, :1]))


def test_bad_files(tmp_path):
    save_file({"ids": torch.zeros(1, 1)}, tmp_path / "a.safetensors")
    parquet.write_table(pyarrow.table({"ids": [1]}), tmp_path / "a.parquet")
    for path in ("a.safetensors", "a.parquet"):
        with pytest.raises(ValueError, match="must have indices and logprobs, got ids; rename"):
            read_topk(tmp_path / path)
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.parquet, got .*a\.csv"):
        read_topk(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="without a step"):
        read_topk(tmp_path / "a.parquet", slice(0, 4, 2))


def test_losses_import_no_reader():
    code = "import otkit.losses, sys; assert not {'pyarrow', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
