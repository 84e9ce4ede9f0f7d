"""The typed configuration: what a run is, checked once at its start.

A file in ``configs/`` defines ``get_config() -> Config``; the command line replaces single fields
(``--config.model.width=32``). Field names are part of the interface: people script against them.
"""

import dataclasses
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from glinpaint_jax.errors import UserError

PRECISIONS = ("float32", "bfloat16")
OUTPUTS = ("clip", "sigmoid")
CROPS = ("crop_then_resize", "resize_then_crop")
MASK_KINDS = ("square", "rectangle", "irregular", "free_form", "files")
BBOX_MASK_KINDS = ("square", "rectangle")
ADVERSARIAL_KINDS = ("vanilla", "lsgan", "hinge", "wgan")
OPTIMIZERS = ("adam", "adadelta")
SCHEDULES = ("constant", "cosine")


@dataclass
class ModelConfig:
    width: int = 64  # channels of the first convolution; every other layer is a multiple of it
    output: str = "clip"  # of OUTPUTS: MMagic's clip(-1, 1), or the paper's sigmoid


@dataclass
class DataConfig:
    # photos | folder:PATH[:LIST] | tfds:NAME:SPLIT | array_record:GLOB; A|B: the first that exists
    source: str = "photos"
    eval_source: str = ""  # same forms; empty: the source's own validation part (data/datasets.py)
    eval_images: int = 1000  # images of each evaluation set, at most
    num_workers: int = 4  # worker processes; 0 reads in threads of the main process
    crop: str = "crop_then_resize"  # of CROPS: MMagic's, or the paper's
    crop_size: int = 384  # crop_then_resize: side of the crop; resize_then_crop: largest short side
    horizontal_flip: bool = False


@dataclass
class MaskConfig:
    kind: str = "square"  # of MASK_KINDS
    max_size: int = 128  # square, rectangle: longest side in pixels
    max_delta: int = 40  # square, rectangle: the sides shrink by 0 .. max_delta // 2 pixels
    margin: int = 20  # square, rectangle: least distance to the image's border
    min_area: float = 0.15  # irregular, free_form: share of the image
    max_area: float = 0.5
    folder: str = ""  # files: where the mask images lie
    fill: tuple[float, float, float] = (127.5, 127.5, 127.5)  # RGB, 0..255, put into the hole


@dataclass
class PhasesConfig:
    completion_end: int = 90_000  # T_C: last step that trains the generator by reconstruction only
    discriminator_end: int = 100_000  # T_D: last step that trains the discriminator only
    disc_step: int = 1  # discriminator updates per generator update in the joint phase


@dataclass
class LossConfig:
    l1_hole: float = 1.0
    mse_hole: float = 0.0
    l1_valid: float = 0.0
    tv: float = 0.0
    adversarial: float = 0.001
    adversarial_kind: str = "vanilla"  # of ADVERSARIAL_KINDS
    disc_shift: float = 0.0
    random_real_window: bool = False  # the paper's: the real sample's local window lies at random


@dataclass
class OptimizerConfig:
    name: str = "adam"  # of OPTIMIZERS
    learning_rate: float = 4e-4
    schedule: str = "constant"  # of SCHEDULES; cosine falls to 0 at num_steps
    warmup_steps: int = 0
    clip_norm: float = 0.0  # global gradient norm, per network; 0: no clipping


@dataclass
class Config:
    num_steps: int = 500_002
    seed: int = 0
    init_from: str = ""  # trained weights to start from: a workdir, a step or a .pth file
    global_batch_size: int = 96
    image_size: int = 256
    precision: str = "float32"  # of PRECISIONS: what convolutions compute in
    log_every: int = 100
    eval_every: int = 50_000
    checkpoint_every: int = 5_000
    max_skipped_updates: int = 10  # in a row, not finite, before the run stops
    max_failed_saves: int = 3  # in a row, before the run stops
    ema_decay: float = 0.0  # of the generator; 0: off
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    phases: PhasesConfig = field(default_factory=PhasesConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    @property
    def local_size(self) -> int:
        """Side of the local discriminator's window: half the image, as in the paper."""
        return self.image_size // 2

    def validate(self) -> "Config":
        """Returns self, or raises UserError for the first impossible value."""
        values, defaults = flatten(to_dict(self)), flatten(to_dict(Config()))
        for path, value in values.items():
            kind = type(defaults[path])
            allowed = (int, float) if kind is float else kind
            _require(isinstance(value, allowed), path, value, f"of type {kind.__name__}")
            _require(not isinstance(value, float) or isfinite(value), path, value, "finite")
        for minimum, paths in MINIMA.items():
            for path in paths:
                _require(values[path] >= minimum, path, values[path], f"at least {minimum}")
        for path, choices in CHOICES.items():
            _require(values[path] in choices, path, values[path], "one of " + ", ".join(choices))
        self._validate_relations()
        return self

    def _validate_relations(self) -> None:
        mask, phases = self.mask, self.phases
        _require(self.seed < 2**32, "seed", self.seed, f"at most {2**32 - 1}")
        _require(self.model.width % 2 == 0, "model.width", self.model.width, "even")
        _require(
            self.image_size % 4 == 0,
            "image_size",
            self.image_size,
            f"a multiple of 4 (the generator's stride), such as {self.image_size // 4 * 4}",
        )
        rate = self.optimizer.learning_rate
        _require(rate > 0, "optimizer.learning_rate", rate, "positive")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1); 0 is off")
        _require(
            phases.completion_end <= phases.discriminator_end,
            "phases.discriminator_end",
            phases.discriminator_end,
            f"at least phases.completion_end, {phases.completion_end}",
        )
        if mask.kind in BBOX_MASK_KINDS:
            largest = self.image_size - 2 * mask.margin - 1
            _require(
                mask.max_size <= largest,
                "mask.max_size",
                mask.max_size,
                f"at most image_size - 2 * mask.margin - 1 = {largest}; "
                "lower it or mask.margin, or raise image_size",
            )
            _require(
                mask.max_delta // 2 < mask.max_size,
                "mask.max_delta",
                mask.max_delta,
                f"less than twice mask.max_size, {2 * mask.max_size}, or no hole is left",
            )
        elif mask.kind == "files":
            _require(mask.folder != "", "mask.folder", mask.folder, "a folder of mask images")
        else:
            _require(
                mask.min_area > 0 and mask.min_area + 0.05 <= mask.max_area <= 0.9,
                "mask.min_area, mask.max_area",
                (mask.min_area, mask.max_area),
                "0 < min_area, min_area + 0.05 <= max_area <= 0.9",
            )
        _require(
            len(mask.fill) == 3
            and all(isinstance(value, int | float) and 0 <= value <= 255 for value in mask.fill),
            "mask.fill",
            mask.fill,
            "three values within 0..255",
        )
        _require(
            self.data.crop != "resize_then_crop" or self.data.crop_size >= self.image_size,
            "data.crop_size",
            self.data.crop_size,
            f"at least image_size, {self.image_size}, with data.crop=resize_then_crop",
        )


MINIMA = {
    0: (
        "seed",
        "data.num_workers",
        "mask.max_delta",
        "mask.margin",
        "losses.l1_hole",
        "losses.mse_hole",
        "losses.l1_valid",
        "losses.tv",
        "losses.adversarial",
        "losses.disc_shift",
        "optimizer.warmup_steps",
        "optimizer.clip_norm",
    ),
    1: (
        "num_steps",
        "global_batch_size",
        "log_every",
        "eval_every",
        "checkpoint_every",
        "max_skipped_updates",
        "max_failed_saves",
        "data.eval_images",
        "data.crop_size",
        "mask.max_size",
        "phases.disc_step",
    ),
    2: ("model.width",),
    16: ("image_size",),
}
CHOICES = {
    "precision": PRECISIONS,
    "model.output": OUTPUTS,
    "data.crop": CROPS,
    "mask.kind": MASK_KINDS,
    "losses.adversarial_kind": ADVERSARIAL_KINDS,
    "optimizer.name": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
}


def _require(condition: bool, path: str, value: Any, allowed: str) -> None:
    if not condition:
        raise UserError(
            f"config.{path} is {value!r}, must be {allowed}; "
            f"change it in the config file or pass --config.{path.split(',')[0]}=VALUE"
        )


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict that survives JSON (tuples become lists)."""
    as_dict = dataclasses.asdict(config)
    if isinstance(as_dict["mask"]["fill"], tuple):
        as_dict["mask"]["fill"] = list(as_dict["mask"]["fill"])
    return as_dict


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`. Fields that `values` lacks keep their defaults.

    Raises UserError for fields that this version does not know.
    """
    config = Config()
    fields = flatten(values)
    unknown = fields.keys() - flatten(to_dict(config)).keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UserError(f"a saved config has fields that this version does not know: {names}")
    for path, value in fields.items():
        *section, name = path.split(".")
        setattr(getattr(config, section[0]) if section else config, name, value)
    if isinstance(config.mask.fill, list):
        config.mask.fill = tuple(config.mask.fill)
    return config


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The leaf fields that differ, by path, with both values."""
    old_values, new_values = flatten(to_dict(old)), flatten(to_dict(new))
    return {
        path: (value, new_values[path])
        for path, value in old_values.items()
        if value != new_values[path]
    }
