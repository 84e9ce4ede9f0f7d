"""Parts of accelerator.sh: python accelerator_parts.py PART SCRATCH [--rehearse]

A part prints its docstring and its results for the report. Errors go to the log.
"""

import inspect
import itertools
import math
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import training
from jax import Array

from glinpaint_jax.config import Config, ModelConfig
from glinpaint_jax.files import write_atomically
from glinpaint_jax.models import discriminator, generator
from glinpaint_jax.models.conv import conv, conv2d, conv_transpose_4x4_stride2, split_pixels
from glinpaint_jax.models.layers import Layer
from glinpaint_jax.parallel import make_mesh
from glinpaint_jax.training.phases import Phase

FULL, TINY = Config(), Config(image_size=64, model=ModelConfig(width=8))
BATCHES, PRECISIONS = (12, 48), ("bfloat16", "float32")
STEP_FLOP = 243.2e9  # of a joint step, for each image of 256x256: XLA's cost analysis for a TPU
Conv = Callable[[Array, Array], Array]  # x, kernel -> y


def device(config: Config, scratch: Path) -> None:
    """The machine, with the memory that jax may use."""
    first = jax.devices()[0]
    memory = (first.memory_stats() or {}).get("bytes_limit", 0) / 1e9
    print(f"{len(jax.devices())} x {first.device_kind}, {memory:.0f} GB, jax {jax.__version__}")
    if first.platform == "cpu" and config is not TINY:
        sys.exit("error: jax finds no accelerator; install its plugin, or pass --rehearse")


def convolutions(config: Config, scratch: Path) -> None:
    """Each layer's convolution alone: forward, and forward with both gradients, for 12 images.

    ours   as the networks compute it
    plain  XLA's convolution and XLA's gradients
    split  a dilated convolution as a plain one of every d-th pixel, with splitting and joining

    Layers with several forms come first; of layers with equal shapes, only the first is timed.
    Times are medians of rounds of many runs; starting a run takes as long as "nothing".
    float32 is multiplied as TF32. FLOP include products with padding.
    """
    jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    print(f"nothing: {1e3 * seconds_of(jax.jit(lambda: jax.numpy.zeros(()))):.3f} ms\n")
    print("layer            input            precision form       ms TFLOP/s   with gradients")
    cases = itertools.product(PRECISIONS, layers(config))
    for precision, layer in sorted(cases, key=lambda case: len(case[1][1]) == 1):
        name, forms, flop, *shapes = layer
        operands = [jax.random.normal(jax.random.key(0), shape, precision) for shape in shapes]
        for form, function in forms.items():
            print(f"{name:16} {shapes[0][1:]!s:16} {precision:9} {form:5}", end="")
            for program, work in ((function, flop), (partial(with_gradients, function), 3 * flop)):
                seconds = seconds_of(partial(jax.jit(program), *operands))
                print(f"{1e3 * seconds:9.3f} {work / seconds / 1e12:6.1f} ", end="")
            print()


def with_gradients(function: Conv, x: Array, kernel: Array) -> tuple[Array, Any]:
    y, pull_back = jax.vjp(function, x, kernel)
    return y, pull_back(y)


def layers(config: Config) -> list[tuple[str, dict[str, Conv], float, Any, Any]]:
    """The networks' different convolutions: name, forms, FLOP, shapes of input and kernel."""
    width, found = config.model.width, {}
    decoder = (*generator.DECODER, Layer("dec7", 3 / width, kernel=3))
    for network, table, side, channels in (
        ("", (*generator.ENCODER, *generator.DILATION_NECK, *decoder), config.image_size, 4),
        ("global ", discriminator.GLOBAL_BRANCH, config.image_size, 3),
        ("local ", discriminator.LOCAL_BRANCH, config.local_size, 3),
    ):
        for layer in table:
            x = (BATCHES[0], side, side, channels)
            kernel = (layer.kernel, layer.kernel, channels, layer.features(width))
            products = math.prod(x[:3]) * math.prod(kernel)  # of each input pixel and each weight
            flop = 2 * products / (1 if layer.transposed else layer.stride**2)
            row = (network + layer.name, forms_of(layer, side), flop, x, kernel)
            found.setdefault((layer._replace(name=""), x), row)
            side = 2 * side if layer.transposed else side // layer.stride
            channels = layer.features(width)
    return list(found.values())


def forms_of(layer: Layer, side: int) -> dict[str, Conv]:
    """Ways to compute a layer; only ours if the others would be the same program."""
    if layer.transposed:
        plain = partial(conv, pads=(2, 2), zeros=1)
        return {"ours": conv_transpose_4x4_stride2, "plain": plain}
    shape = {"stride": layer.stride, "dilation": layer.dilation}
    forms = {"ours": partial(conv2d, padding=layer.padding, **shape)}
    if layer.dilation > 1 or side // layer.stride < layer.kernel:
        forms["plain"] = partial(conv, pads=(layer.padding, layer.padding), **shape)
    if layer.dilation > 1:
        forms["split"] = partial(conv_of_split_pixels, step=layer.dilation)
    return forms


def conv_of_split_pixels(x: Array, kernel: Array, step: int) -> Array:
    """A 3x3 convolution with dilation `step`: a plain one of step**2 small images, joined."""
    y = conv(split_pixels(x, step), kernel, (1, 1))
    _, height, width, channels = y.shape
    y = y.reshape(-1, step, step, height, width, channels).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(-1, step * height, step * width, channels)


def jax_steps(config: Config, scratch: Path) -> None:
    """The joint training step of the whole model in jax, and a large matrix product.

    GB: what the compiled program holds. float32 is multiplied as TF32.
    """
    for precision in PRECISIONS:
        run, flop = training.matrix_product(precision)
        print(f"matrix product, {precision:8} {flop / seconds_of(run) / 1e12:.1f} TFLOP/s")
    for sized in step_configs(config):
        step = training.JaxStep(sized, Phase.JOINT, make_mesh(jax.devices()[:1]))
        print_step("ours", sized, step.run, step.compile_s, step.bytes)


def torch_steps(config: Config, scratch: Path) -> None:
    """The same in PyTorch: channels_last, autocast. GB: peak. Compiling includes two steps."""
    import torch
    import training_torch

    cuda = torch.cuda.is_available()
    for compiled, sized in itertools.product(range(1 + cuda), step_configs(config)):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        training_torch.multiply_in(sized.matmul_precision)
        batch, started = training.random_batch(sized), time.perf_counter()
        run = training_torch.make_step(sized, Phase.JOINT, batch, compiled=compiled)
        run()
        run()
        passed, name = time.perf_counter() - started, "PyTorch" + " compiled" * compiled
        print_step(name, sized, run, passed, torch.cuda.max_memory_allocated())
        del run  # frees its memory


def step_configs(config: Config) -> list[Config]:
    cases = itertools.product(BATCHES, PRECISIONS)
    return [replace(config, global_batch_size=batch, precision=name) for batch, name in cases]


def print_step(name: str, config: Config, run: Any, compile_s: float, size: int) -> None:
    batch, seconds = config.global_batch_size, seconds_of(run, 0.5)
    print(
        f"{name:16} {batch} images, {config.precision:8} {batch / seconds:8.1f} images/s, "
        f"{batch * STEP_FLOP / seconds / 1e12:6.1f} TFLOP/s, {size / 1e9:5.2f} GB, "
        f"compiled in {compile_s:.0f} s"
    )


def profile(config: Config, scratch: Path) -> None:
    """The longest operations of a joint step in bfloat16. The trace opens in ui.perfetto.dev."""
    step = training.JaxStep(step_configs(config)[0], Phase.JOINT, make_mesh(jax.devices()[:1]))
    step.run()
    with jax.profiler.trace(str(scratch / "trace")):
        step.run()
    (trace,) = scratch.glob("trace/**/*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(trace)).planes)
    lines = [line for plane in planes if "/device:" in plane.name for line in plane.lines]
    milliseconds: Counter[str] = Counter()
    for line in lines or [line for plane in planes for line in plane.lines]:
        for event in line.events:
            name = dict(event.stats).get("hlo_op")
            if name or line.name.startswith(("XLA Ops", "Stream")):  # lines of TPUs, of GPUs
                milliseconds[name or event.name.split(" = ")[0]] += event.duration_ns / 1e6
    names = re.findall(r'%?([\w.-]+) = .*op_name="([^"]+)"', step.compiled.as_text())
    for name, duration in milliseconds.most_common(15):
        print(f"{duration:8.3f} ms {name:30} {dict(names).get(name, '')}")


def export(config: Config, scratch: Path) -> None:
    """generator.safetensors holds the newest weights of the training, kernels in float16."""
    from glinpaint_jax.interop.weight_files import safetensors_bytes
    from glinpaint_jax.weights import load_weights

    weights = load_weights(scratch / "run")
    half = jax.tree.map(lambda w: w.astype("float16") if w.ndim > 1 else w, weights.generator)
    weights = replace(weights, generator=half, discriminator=None)
    write_atomically(scratch / "generator.safetensors", safetensors_bytes(weights))
    print("Step:", weights.step)


def seconds_of(run: Callable[[], Any], round_seconds: float = 0.02) -> float:
    """Of a run: the median of five rounds, each waited for at its end, after two warm-ups."""
    seconds, count = [], 1
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(count):
            result = run()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - started) / count)
        count = int(round_seconds / seconds[-1]) + 1
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    name, scratch, *rehearse = sys.argv[1:]
    part = globals()[name]
    print(inspect.getdoc(part), end="\n\n")
    part(TINY if rehearse else FULL, Path(scratch))
