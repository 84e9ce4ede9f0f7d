"""Reads compiled programs: what each operation moves and multiplies, and which layer it is of."""

import math
import re
from collections.abc import Iterable
from functools import cached_property

SIZES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
COLLECTIVES = (
    "all-(reduce|gather)|reduce-scatter|(ragged-)?all-to-all|collective-(permute|broadcast)"
)
FREE = ("parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all", "iota")
MOVES = "copy|transpose|reverse|reshape|slice|pad|concatenate|convert"


class Instruction:
    """An instruction of a compiled program: `%name = shape opcode(rest`."""

    def __init__(self, name: str, shape: str, opcode: str, rest: str):
        self.name, self.shape, self.opcode, self.rest = name, shape, opcode, rest
        self.operands = re.findall(r"%([\w.-]+)", rest.partition(")")[0])
        self.operand_shapes: list[str] = []
        self.body = [self]  # a fusion's instructions

    def attribute(self, pattern: str) -> str:
        """The first group of `pattern` in the rest of the line, or an empty string."""
        match = re.search(pattern, self.rest)
        return match[1] if match else ""

    @property
    def target(self) -> str:
        """The library function that a custom call is of."""
        return self.attribute(r'custom_call_target="([^"]*)"')

    @property
    def is_collective(self) -> bool:
        return re.fullmatch(COLLECTIVES, self.opcode.removesuffix("-start")) is not None

    @property
    def cycles(self) -> int:
        """A TPU compiler's estimate."""
        return int(self.attribute(r'"estimated_cycles":"(\d+)"') or 0)

    @property
    def window(self) -> str:
        """The window of a convolution."""
        return next(filter(None, (one.attribute(r"window={([^}]*)}") for one in self.body)), "")

    @property
    def stuffs(self) -> bool:
        """Whether it inserts zeros between the elements of an array."""
        paddings = (one.attribute(r"padding=(\S+)") for one in self.body)
        return any(re.search(r"\d_\d+_[1-9]", padding) for padding in paddings)

    @cached_property
    def source(self) -> str:
        """Where it comes from: a path of jax's functions and our layers."""
        # A fusion may have no path: then that of the last operation in it that has one.
        inside = (one.attribute(r'op_name="(jit[^"]*)"') for one in reversed(self.body))
        return self.attribute(r'op_name="([^"]*)"') or next(filter(None, inside), "")

    @cached_property
    def kind(self) -> str:
        """What it does; empty if it costs nothing."""
        inside = {one.opcode for one in self.body}
        if self.opcode.removesuffix("-start") in FREE or self.opcode.endswith("-done"):
            return ""
        if self.is_collective or self.name.startswith("wrapped_concatenate"):
            return "collectives"
        if "cudnn" in self.target or "convolution" in inside:
            return "convolutions"
        if "matmul" in self.target or "dot" in inside:
            return "matrix products"
        if "/optimizer" in self.source:
            return "optimizer"
        if "/bn/" in self.source:
            return f"batch norm, {direction_of(self.source)}"
        if re.match(rf"((loop|input|wrapped)_)?({MOVES})", self.name):
            return "copies and casts"
        return "other"

    @cached_property
    def bytes(self) -> int:
        """Bytes that it reads and writes."""
        if not self.kind:
            return 0
        reads = (self._read_size(number) for number in range(len(self.operands)))
        return size_of(self.shape) + sum(reads)

    def _read_size(self, number: int) -> int:
        """Bytes that it reads of an operand; of slices, only theirs."""
        parameters = (one for one in self.body if one.opcode == "parameter")
        names = {one.name for one in parameters if one.rest.startswith(f"{number})")}
        users = [one for one in self.body if names & set(one.operands)]
        if len(self.body) == 1:
            users = self.body
        if users and all(one.opcode in ("slice", "dynamic-slice") for one in users):
            return sum(size_of(one.shape) for one in users)
        return size_of(self.operand_shapes[number])

    @cached_property
    def flop(self) -> float:
        """FLOP as executed, with the zeros that are multiplied by; only of GPU programs."""
        shapes = (self.shape, *self.operand_shapes[:2])
        if "cudnn" in self.target:
            result, first, second = (arrays_in(shape)[0][1] for shape in shapes)
            pixels, kernel = {
                "__cudnn$convBackwardInput": (first, second),
                "__cudnn$convBackwardFilter": (second, result),
            }.get(self.target, (result, second))
            features = self.attribute(r"dim_labels=\w+_(\w+)->").index("o")
            return 2 * math.prod(pixels) * math.prod(kernel) / kernel[features]
        if "matmul" in self.target:  # of m x k and k x n
            return 2 * math.prod(math.prod(arrays_in(shape)[0][1]) for shape in shapes) ** 0.5
        flop, inside = 0.0, {one.name: one.shape for one in self.body}
        for dot in (one for one in self.body if one.opcode == "dot" and one.operands[0] in inside):
            sides = arrays_in(inside[dot.operands[0]])[0][1]
            summed = dot.attribute(r"lhs_contracting_dims={([\d,]*)}").split(",")
            products = math.prod(sides[int(number)] for number in summed)
            flop += 2 * math.prod(arrays_in(dot.shape)[0][1]) * products
        return flop


def read_entry(text: str) -> list[Instruction]:
    """The instructions of a program's entry computation, in order."""
    current = entry = list[Instruction]()
    bodies: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.-]+) .*{$", line):
            current = entry if header[1] else bodies.setdefault(header[2], [])
        elif match := re.match(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)", line):
            current.append(Instruction(*match.groups()))
    shapes = {one.name: one.shape for one in entry}
    for one in entry:
        one.body = bodies.get(one.attribute(r"calls=%([\w.-]+)"), [one])
        one.operand_shapes = [shapes.get(name, "") for name in one.operands]
    return entry


def size_of(shape: str) -> int:
    """Bytes of an array or a tuple of arrays."""
    return sum(math.prod(sides) * SIZES.get(dtype, 4) for dtype, sides in arrays_in(shape))


def arrays_in(shape: str) -> list[tuple[str, list[int]]]:
    shape = re.sub(r"{[^}]*}|/\*.*?\*/", "", shape)
    found = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return [(dtype, [int(n) for n in sides.split(",") if n]) for dtype, sides in found]


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
