"""Kernels compiled for a GPU that need not be there, and what their machine code says."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from triton import knobs  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.driver import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", re.MULTILINE)
BRANCH = re.compile(r"BRA\b.*?\b0x([0-9a-f]+)")


class Absent:
    """Stands in for the driver of a GPU of some compute capability; kernels are kept by the number of the device."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass(frozen=True)
class Code:
    """A kernel in machine code: instructions by address, the registers of a thread and the bytes of its stack."""

    name: str
    threads: int
    registers: int
    stack: int
    instructions: dict[int, str]

    @staticmethod
    def of(kernel) -> "Code":
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            command = [knobs.nvidia.cuobjdump.path, "-sass", "--dump-resource-usage", file.name]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack = (int(re.search(rf"\b{what}:(\d+)", text)[1]) for what in ("REG", "STACK"))
        instructions = {int(address, 16): operation for address, operation in LINE.findall(text)}
        return Code(kernel.metadata.name, 32 * kernel.metadata.num_warps, registers, stack, instructions)

    def count(self, pattern: str) -> int:
        """Instructions that begin with the pattern."""
        return sum(re.match(pattern, operation) is not None for operation in self.instructions.values())

    @property
    def spills(self) -> int:
        """Loads and stores of registers for which there was no room."""
        return self.count(r"LDL|STL")

    @property
    def loops(self) -> list["Code"]:
        """What lies between a branch back and its target, the shortest first."""
        found = []
        for end, operation in self.instructions.items():
            back = BRANCH.match(operation)
            if back and (start := int(back[1], 16)) < end:
                found.append({at: what for at, what in self.instructions.items() if start <= at <= end})
        return [Code(self.name, self.threads, self.registers, self.stack, body) for body in sorted(found, key=len)]

    def innermost(self, pattern: str) -> "Code":
        """The shortest loop with such an instruction."""
        return next(loop for loop in self.loops if loop.count(pattern))


def compiled(call: Callable[[], object], capability: int) -> dict[str, Code]:
    """What a GPU would run if it were there: the code of every kernel that `call` launches, none of which runs."""
    found, run = {}, JITFunction.run

    def compile_only(kernel, *args, grid, warmup, **options):
        code = run(kernel, *args, grid=grid, warmup=True, **options)
        found[code.metadata.name] = code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", compile_only)
        patch.setattr(driver, "_active", Absent(capability))
        patch.setattr(torch, "empty", torch.zeros)  # a count that no kernel writes is read
        call()
    return {name: Code.of(code) for name, code in found.items()}
