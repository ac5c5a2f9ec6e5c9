"""Kernels compiled for a GPU that need not be there: what is launched, and what the machine code says."""

import hashlib
import math
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

# An instruction, and the second half of its encoding.
LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;.*\n\s*/\* 0x([0-9a-f]{16}) \*/", re.MULTILINE)
BRANCH = re.compile(r"BRA\b.*?\b0x([0-9a-f]+)")
LOAD = re.compile(r"(?:LDG|LDGSTS)\b(\S*)")


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
    """A kernel in machine code, or a part of it.

    Attributes
    ----------
    name : str
    threads, registers, stack, shared : int
        Threads of a program, registers and bytes of stack of a thread, bytes of shared memory of a program.
    instructions : dict of int to str
        By address.
    controls : dict of int to int
        What the compiler says of the timing of each instruction: cycles, and the counters that it sets and awaits.
    """

    name: str
    threads: int
    registers: int
    stack: int
    shared: int
    instructions: dict[int, str] = field(repr=False)
    controls: dict[int, int] = field(repr=False)

    @staticmethod
    def of(kernel: Any) -> "Code":
        text = disassembled(kernel.asm["cubin"])
        registers, stack = (int(re.search(rf"\b{what}:(\d+)", text)[1]) for what in ("REG", "STACK"))
        found = [(int(address, 16), operation, int(control, 16)) for address, operation, control in LINE.findall(text)]
        instructions = {address: operation for address, operation, _ in found}
        controls = {address: control >> 41 for address, _, control in found}
        of = kernel.metadata
        return Code(of.name, 32 * of.num_warps, registers, stack, of.shared, instructions, controls)

    def count(self, pattern: str) -> int:
        """Instructions that begin with the pattern."""
        return sum(re.match(pattern, operation) is not None for operation in self.instructions.values())

    @property
    def spills(self) -> int:
        """Loads and stores of registers for which there was no room."""
        return self.count(r"LDL|STL")

    @property
    def loads(self) -> list[int]:
        """Bytes of each load of a thread from global memory."""
        kinds = filter(None, map(LOAD.match, self.instructions.values()))
        return [width(kind[1]) for kind in kinds]

    @property
    def loaded(self) -> int:
        """Bytes that a thread loads from global memory."""
        return sum(self.loads)

    @property
    def widest(self) -> int:
        """Bytes that a thread loads in the widest of these loads."""
        return sum(size for size in self.loads if size == max(self.loads))

    @cached_property
    def loops(self) -> list["Code"]:
        """What lies between a branch back and its target, the shortest first."""
        found = []
        for end, operation in self.instructions.items():
            back = BRANCH.match(operation)
            if back and (start := int(back[1], 16)) < end:
                found.append([at for at in self.instructions if start <= at <= end])
        return [self._part(body) for body in sorted(found, key=len)]

    @cached_property
    def innermost(self) -> list["Code"]:
        """The loops in which there is no other."""
        return [
            loop
            for loop in self.loops
            if not any(other.instructions.keys() < loop.instructions.keys() for other in self.loops)
        ]

    @cached_property
    def usual(self) -> "Code":
        """What is left where every branch forward is taken: without maxima, penalties and repairs, as nearly always."""
        body, end, past = [], max(self.instructions), 0
        for at, operation in self.instructions.items():
            if at < past:
                continue
            body.append(at)
            branch = BRANCH.match(operation)
            if branch and not operation.startswith("BRA.DIV") and at < int(branch[1], 16) <= end:
                past = int(branch[1], 16)
        return self._part(body)

    def shortest(self, pattern: str) -> "Code":
        """The shortest loop with such an instruction."""
        return next(loop for loop in self.loops if loop.count(pattern))

    def _part(self, body: list[int]) -> "Code":
        parts = ({at: of[at] for at in body} for of in (self.instructions, self.controls))
        return Code(self.name, self.threads, self.registers, self.stack, self.shared, *parts)


def width(kind: str) -> int:
    """Bytes of a load, from the modifiers of its instruction."""
    bits = re.search(r"\.[US]?(8|16|64|128)\b(?!B)", kind)
    return int(bits[1]) // 8 if bits else 4


def disassembled(cubin: bytes) -> str:
    """The text of a kernel in machine code, kept beside Triton's own cache since it takes half a second."""
    path = Path(knobs.cache.dir) / "disassembled" / hashlib.sha256(cubin).hexdigest()
    if not path.exists():
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            command = [knobs.nvidia.cuobjdump.path, "-sass", "--dump-resource-usage", file.name]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)  # at once, for processes that look at the same time
    return path.read_text()


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel: its code, the number of its programs, and its arguments by name."""

    code: Code
    programs: int
    args: dict[str, Any] = field(repr=False)


def launches(call: Callable[[], object], capability: int) -> list[Launch]:
    """What a GPU would run if it were there: every launch of `call` in its order, none of which runs."""
    found, codes, run = [], {}, JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        code = run(kernel, *args, grid=grid, warmup=True, **options)
        codes.setdefault(id(code), code)
        found.append((id(code), math.prod(grid), dict(zip(kernel.arg_names, args, strict=False))))

    with (
        patch.object(JITFunction, "run", compile_only),
        patch.object(driver, "_active", Absent(capability)),
        patch.object(torch, "empty", torch.zeros),  # a count that no kernel writes is read
    ):
        call()
    read = {key: Code.of(code) for key, code in codes.items()}
    return [Launch(read[key], programs, args) for key, programs, args in found]


def compiled(call: Callable[[], object], capability: int) -> dict[str, Code]:
    """The code of every kernel that `call` launches."""
    return {launch.code.name: launch.code for launch in launches(call, capability)}
