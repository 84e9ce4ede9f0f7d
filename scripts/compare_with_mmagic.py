"""Compares our networks with MMagic's own modules, given the same weight file.

    pip install -e '.[torch]'
    pip install --no-deps mmagic==1.2.0 mmengine==0.10.7 mmcv-lite==2.1.0
    pip install addict yapf termcolor rich
    python scripts/compare_with_mmagic.py [FILE.pth]

FILE.pth is any Global&Local weight file from MMagic; without one, weights are random. Prints the
largest difference and the largest value of each output, computed in float64. Not part of the tests:
MMagic is no longer maintained and pins packages that conflict with current ones.
"""

import importlib
import importlib.util
import io
import sys
import types
from functools import partial
from pathlib import Path

import jax
import numpy as np
import torch
from benchmarks.parity import random_variables

from glinpaint_jax.config import Config
from glinpaint_jax.interop.weight_files import pth_bytes, read_weights
from glinpaint_jax.models.networks import Weights, abstract_variables, make_networks

TOLERANCE = 1e-10  # relative to the largest output


def import_mmagic() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Builds GLEncoderDecoder and GLDiscs as MMagic's configs do.

    Imports only Global&Local's modules, because importing the package normally loads all models
    and their dependencies.
    """
    root = Path(importlib.util.find_spec("mmagic").submodule_search_locations[0]).parent
    for name in ("", ".models", ".models.archs", ".models.editors", ".models.editors.global_local"):
        package = types.ModuleType("mmagic" + name)
        package.__path__ = [str(root / package.__name__.replace(".", "/"))]
        sys.modules[package.__name__] = package
    archs = sys.modules["mmagic.models.archs"]
    for module, name in {
        "gated_conv_module": "SimpleGatedConvModule",
        "linear_module": "LinearModule",
        "multi_layer_disc": "MultiLayerDiscriminator",
    }.items():
        loaded = importlib.import_module(f"mmagic.models.archs.{module}")
        setattr(archs, name, getattr(loaded, name))
    for module in ("encoder", "decoder", "dilation", "disc", "encoder_decoder"):
        importlib.import_module(f"mmagic.models.editors.global_local.gl_{module}")

    from mmagic.registry import MODELS
    from mmengine.registry import MODELS as LAYERS

    LAYERS.register_module("Deconv", module=torch.nn.ConvTranspose2d)
    norm = {"norm_cfg": {"type": "BN"}}
    parts = {"encoder": "GLEncoder", "decoder": "GLDecoder", "dilation_neck": "GLDilationNeck"}
    stacks = {part: {"type": name, **norm} for part, name in parts.items()}
    branch = {"in_channels": 3, "max_channels": 512, "fc_in_channels": 512 * 4 * 4, **norm}
    branch["fc_out_channels"] = 1024
    convs = {"global_disc_cfg": 6, "local_disc_cfg": 5}
    branches = {name: branch | {"num_convs": count} for name, count in convs.items()}
    generator = MODELS.build({"type": "GLEncoderDecoder", **stacks})
    return generator, MODELS.build({"type": "GLDiscs", **branches})


def to_torch(array: np.ndarray) -> torch.Tensor:
    """NHWC, RGB -> NCHW, BGR; a single channel is left as is."""
    return torch.from_numpy(np.moveaxis(array, -1, 1)[:, ::-1].copy())


def compare(name: str, ours: np.ndarray, theirs: torch.Tensor) -> None:
    """Prints the difference; exits if it exceeds the tolerance."""
    theirs = theirs.detach().numpy()
    difference, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    print(f"{name:<36}{difference:.1e} of {largest:.3g}")
    if not difference <= TOLERANCE * largest:
        sys.exit(f"error: {name} differs by more than {TOLERANCE}")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    if len(sys.argv) > 1:
        weights = read_weights(Path(sys.argv[1]))
    else:
        rng = np.random.RandomState(0)
        networks = (random_variables(shapes, rng) for shapes in abstract_variables(Config()))
        weights = Weights(Config(), 0, *networks)
    generator, discriminator = import_mmagic()
    state = torch.load(io.BytesIO(pth_bytes(weights)), weights_only=True)["state_dict"]
    networks = {"generator.": generator, "disc.": discriminator}
    for prefix, network in networks.items():
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        network.load_state_dict(own, strict=True)
    print("MMagic's modules load the weight file strictly")

    ours, our_discriminator = make_networks(weights.config)
    variables = jax.tree.map(np.float64, (weights.generator, weights.discriminator))
    rng = np.random.default_rng(1)
    # Training mode changes MMagic's running statistics, so it comes last.
    for train, size in ((False, (64, 96)), (False, (256, 256)), (True, (256, 256))):
        image = rng.uniform(-1, 1, (2, *size, 3))
        mask = np.float64(rng.random((2, *size, 1)) > 0.8)
        predict = jax.jit(
            lambda *args, train=train: ours.apply(*args, train=train, mutable=["batch_stats"])
        )
        prediction, _ = predict(variables[0], image * (1 - mask), mask)
        inputs = torch.cat([to_torch(image * (1 - mask)), to_torch(mask)], dim=1)
        theirs = generator.double().train(train)(inputs)
        mode = "training" if train else "evaluation"
        prediction = np.moveaxis(np.asarray(prediction), -1, 1)[:, ::-1]
        compare(f"generator, {size[0]}x{size[1]}, {mode}", prediction, theirs)
    if weights.discriminator is not None:
        window = image[:, 40:168, 70:198]
        for train in (False, True):
            apply = partial(our_discriminator.apply, train=train, mutable=["batch_stats"])
            logits, _ = jax.jit(apply)(variables[1], image, window)
            theirs = discriminator.double().train(train)((to_torch(image), to_torch(window)))
            mode = "training" if train else "evaluation"
            compare(f"discriminator, {mode}", np.asarray(logits), theirs)


if __name__ == "__main__":
    main()
