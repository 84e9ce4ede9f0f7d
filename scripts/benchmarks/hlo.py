"""Reads compiled programs: what each operation moves and multiplies, and which layer it is of."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

SIZES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
FREE = ("parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all", "iota")
MOVES = "copy|transpose|reverse|reshape|slice|pad|concatenate|convert"


class Line(NamedTuple):
    """%name = shape opcode(rest."""

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(re.findall(r"%([\w.-]+)", self.rest.partition(")")[0]))

    def attribute(self, pattern: str) -> str:
        """The first group of `pattern` in the rest of the line, or an empty string."""
        match = re.search(pattern, self.rest)
        return match[1] if match else ""


class Instruction(NamedTuple):
    """An instruction of a compiled program's entry computation."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    kind: str  # empty if it costs nothing
    bytes: int  # read and written
    flop: float  # of convolutions and matrix products; only of GPU programs
    cycles: int  # a TPU compiler's estimate
    source: str  # where it comes from: a path of jax's functions and our layers
    window: str  # of a convolution
    stuffs: bool  # whether it inserts zeros between the elements of an array

    @property
    def is_collective(self) -> bool:
        return self.opcode.removesuffix("-start") in COLLECTIVES


def read_entry(text: str) -> list[Instruction]:
    """The instructions of a program's entry computation, in order."""
    bodies = read_computations(text)
    lines = bodies.pop("ENTRY")
    shapes = {line.name: line.shape for line in lines}
    return [read_instruction(line, shapes, bodies) for line in lines]


def read_computations(text: str) -> dict[str, list[Line]]:
    """The lines of each computation by its name; those of the entry by "ENTRY"."""
    computations: dict[str, list[Line]] = {}
    lines: list[Line] = []
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.-]+) .*{$", line):
            lines = computations.setdefault("ENTRY" if header[1] else header[2], [])
        elif match := re.match(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)", line):
            lines.append(Line(*match.groups()))
    return computations


def read_instruction(
    line: Line, shapes: dict[str, str], bodies: dict[str, list[Line]]
) -> Instruction:
    body = bodies.get(line.attribute(r"calls=%([\w.-]+)"), [line])
    source = line.attribute(r'op_name="([^"]*)"')
    if not source:  # the last operation in it that has one
        inside = (one.attribute(r'op_name="(jit[^"]*)"') for one in reversed(body))
        source = next(filter(None, inside), "")
    operands = [shapes.get(name, "") for name in line.operands]
    kind = kind_of(line, body, source)
    moved = 0
    if kind:
        reads = (read_size(shape, number, body) for number, shape in enumerate(operands))
        moved = size_of(line.shape) + sum(reads)
    return Instruction(
        line.name,
        line.opcode,
        line.shape,
        line.operands,
        kind,
        moved,
        count_flop(line, operands, body),
        int(line.attribute(r'"estimated_cycles":"(\d+)"') or 0),
        source,
        next(filter(None, (one.attribute(r"window={([^}]*)}") for one in body)), ""),
        any(re.search(r"\d_\d+_[1-9]", one.attribute(r"padding=(\S+)")) for one in body),
    )


def kind_of(line: Line, body: list[Line], source: str) -> str:
    opcode = line.opcode.removesuffix("-start")
    target, inside = line.attribute(r'custom_call_target="([^"]*)"'), {one.opcode for one in body}
    if opcode in FREE or opcode.endswith("-done"):
        return ""
    if opcode in COLLECTIVES or line.name.startswith("wrapped_concatenate"):
        return "collectives"
    if "cudnn" in target or "convolution" in inside:
        return "convolutions"
    if "matmul" in target or "dot" in inside:
        return "matrix products"
    if "/optimizer" in source:
        return "optimizer"
    if "/bn/" in source:
        return f"batch norm, {direction_of(source)}"
    if re.match(rf"((loop|input|wrapped)_)?({MOVES})", line.name):
        return "copies and casts"
    return "other"


def read_size(shape: str, number: int, body: list[Line]) -> int:
    """Bytes that an operation reads of its operand `number`; of slices, only theirs."""
    parameters = (one for one in body if one.opcode == "parameter")
    names = {one.name for one in parameters if one.rest.startswith(f"{number})")}
    users = [one for one in body if names & set(one.operands)]
    if len(body) == 1:
        users = body
    if users and all(one.opcode in ("slice", "dynamic-slice") for one in users):
        return sum(size_of(one.shape) for one in users)
    return size_of(shape)


def size_of(shape: str) -> int:
    """Bytes of an array or a tuple of arrays."""
    return sum(math.prod(sides) * SIZES.get(dtype, 4) for dtype, sides in arrays_in(shape))


def arrays_in(shape: str) -> list[tuple[str, list[int]]]:
    shape = re.sub(r"{[^}]*}|/\*.*?\*/", "", shape)
    found = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return [(dtype, [int(n) for n in sides.split(",") if n]) for dtype, sides in found]


def count_flop(line: Line, operands: list[str], body: list[Line]) -> float:
    """FLOP as executed, with the zeros that are multiplied by."""
    target = line.attribute(r'custom_call_target="([^"]*)"')
    if "cudnn" in target:
        result, first, second = (arrays_in(one)[0][1] for one in (line.shape, *operands[:2]))
        pixels, kernel = {
            "__cudnn$convBackwardInput": (first, second),
            "__cudnn$convBackwardFilter": (second, result),
        }.get(target, (result, second))
        features = line.attribute(r"dim_labels=\w+_(\w+)->").index("o")
        return 2 * math.prod(pixels) * math.prod(kernel) / kernel[features]
    if "matmul" in target:  # of m x k and k x n
        sizes = (math.prod(arrays_in(one)[0][1]) for one in (line.shape, *operands[:2]))
        return 2 * math.prod(sizes) ** 0.5
    flop, shapes = 0.0, {one.name: one.shape for one in body}
    for dot in (one for one in body if one.opcode == "dot" and one.operands[0] in shapes):
        sides = arrays_in(shapes[dot.operands[0]])[0][1]
        summed = dot.attribute(r"lhs_contracting_dims={([\d,]*)}").split(",")
        flop += 2 * math.prod(arrays_in(dot.shape)[0][1]) * math.prod(sides[int(n)] for n in summed)
    return flop


def misshapen(entry: list[Instruction]) -> list[Instruction]:
    """Convolutions over more than 5 pixels a side, or over arrays into which zeros were stuffed."""
    by_name = {one.name: one for one in entry}

    def is_stuffed(name: str) -> bool:
        one = by_name[name]
        return one.stuffs or (one.opcode in FREE and any(map(is_stuffed, one.operands)))

    found = []
    for one in (one for one in entry if one.kind == "convolutions" and "size=" in one.window):
        sides = re.search(r"size=([\dx]+)", one.window)[1].split("x")
        stuffed = "lhs_dilate" in one.window or any(map(is_stuffed, one.operands))
        if max(map(int, sides)) > 5 or stuffed:
            found.append(one)
    return found


def collective_depth(entry: Iterable[Instruction]) -> int:
    """The largest number of collectives that wait for one another."""
    depths: dict[str, int] = {}
    for one in entry:
        before = max((depths.get(operand, 0) for operand in one.operands), default=0)
        depths[one.name] = before + one.is_collective
    return max(depths.values())


def direction_of(source: str) -> str:
    return "backward" if "transpose(" in source else "forward"


def layer_of(source: str) -> str:
    """A layer and its pass, e.g. 'Generator/decoder/dec6/conv, backward'."""
    names = r"/(?:encoder|dilation_neck|decoder|\w+_disc|\w*\d|fc|conv|bn)\b"
    layer = re.search(rf"(Generator|Discriminator)\)*((?:{names})*)", source)
    return f"{layer[1]}{layer[2]}, {direction_of(source)}" if layer else source[-44:]
