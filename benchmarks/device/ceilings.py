"""The most that a GPU can do: the rates that times of otkit's operations are compared with."""

import torch
import triton
import triton.language as tl


@triton.jit
def repeated(out, count, EXPONENTIAL: tl.constexpr, BLOCK: tl.constexpr):
    """`count` exponentials or additions in a row of every entry, and nothing else."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(out + i)
    y = x
    for _ in range(count):
        if EXPONENTIAL:
            y = tl.exp2(-y)
        else:
            y += x
    tl.store(out + i, y)


def rate(device, timer, dtype, exponential, small):
    """Exponentials or additions per second, by as many independent ones as fill the device."""
    programs, block, count = (2, 128, 4) if small else (4096, 1024, 2048)
    x = torch.rand(programs * block, dtype=dtype, device=device)

    def call():
        repeated[(programs,)](x, count, exponential, block, num_warps=4, enable_fp_fusion=True)

    return programs * block * count / timer(call)


def copy(device, timer, small):
    """Bytes read and written per second by a copy that no cache holds."""
    size = 2**16 if small else 2**30
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / timer(lambda: target.copy_(source))


def matmul(device, timer, dtype, small):
    """Operations per second of a product of matrices; of float32, in TF32."""
    n = 64 if small else 8192
    x, y = (torch.rand((n, n), device=device).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return 2 * n**3 / timer(lambda: x @ y)
    finally:
        torch.set_float32_matmul_precision(before)


def measured(device, timer, small):
    """All of them, by name."""
    return {
        "copy, B/s": copy(device, timer, small),
        "float32 exponentials/s": rate(device, timer, torch.float32, True, small),
        "float64 exponentials/s": rate(device, timer, torch.float64, True, small),
        "float64 additions/s": rate(device, timer, torch.float64, False, small),
        "TF32 matmul, operations/s": matmul(device, timer, torch.float32, small),
        "bfloat16 matmul, operations/s": matmul(device, timer, torch.bfloat16, small),
    }
