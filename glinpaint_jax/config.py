"""The typed configuration of a run. Field names are public: people script against them.

A file in configs/ defines `get_config() -> Config`; --config.model.width=32 changes one field.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from math import inf, isfinite
from typing import Any

from glinpaint_jax.errors import UserError

PRECISIONS = ("float32", "bfloat16")
MATMUL_PRECISIONS = ("tensorfloat32", "float32")  # jax's names
SCORES = ("l1", "psnr", "ssim")
OUTPUTS = ("clip", "sigmoid")
BASES = ("none", "smooth")
CROPS = ("crop_then_resize", "resize_then_crop")
BBOX_MASK_KINDS = ("square", "rectangle")
STROKE_MASK_KINDS = ("irregular", "free_form")
MIXABLE_MASK_KINDS = (*BBOX_MASK_KINDS, *STROKE_MASK_KINDS, "files")
MASK_KINDS = (*MIXABLE_MASK_KINDS, "paired", "mixed")
ADVERSARIAL_KINDS = ("vanilla", "lsgan", "hinge", "wgan")
OPTIMIZERS = ("adam", "adadelta")
SCHEDULES = ("constant", "cosine")


def setting(default: Any, meaning: str, minimum: int | None = None, choices: tuple = ()) -> Any:
    """A field with its meaning, which --help shows, and bounds, which `Config.validate` checks.

    A tuple may also be one of the words in `choices`.
    """
    metadata = {"meaning": meaning, "minimum": minimum, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    width: int = setting(64, "channels of the first convolution, even", minimum=2)
    output: str = setting("clip", "MMagic's clip, or the paper's sigmoid", choices=OUTPUTS)
    base: str = setting(
        "none", "smooth: holes are filled smoothly first, and the network corrects", choices=BASES
    )


@dataclass
class DataConfig:
    source: str = setting(
        "photos",
        "photos, folder:PATH[:LIST], tfds:NAME:SPLIT or array_record:GLOB; "
        "A|B: the first that exists",
    )
    eval_source: str = setting("", "the same for evaluation; empty: data.source's validation part")
    eval_images: int = setting(1000, "most images per evaluation set", minimum=1)
    num_workers: int = setting(4, "worker processes that read images; 0: threads", minimum=0)
    crop: str = setting("crop_then_resize", "MMagic's order, or the paper's", choices=CROPS)
    crop_size: int = setting(384, "crop's side; resize_then_crop: largest short side", minimum=1)
    horizontal_flip: bool = setting(False, "flip training images at random")


@dataclass
class IrregularConfig:
    lines: tuple[int, int] = setting((4, 8), "least and most lines per mask", minimum=1)
    length: tuple[int, int] = setting(
        (10, 99), "least and most pixels per stroke, at 256x256", minimum=1
    )
    width: tuple[int, int] = setting((10, 39), "least and most pixels, at 256x256", minimum=1)


@dataclass
class FreeFormConfig:
    strokes: tuple[int, int] = setting((1, 4), "least and most brush strokes per mask", minimum=1)
    vertices: tuple[int, int] = setting((4, 12), "least and most turns per stroke", minimum=1)
    length: tuple[float, float] = setting(
        (0.0, 0.25), "least and most between turns, as shares of the diagonal", minimum=0
    )
    width: tuple[float, float] = setting(
        (12.0, 40.0), "least and most pixels, at 256x256", minimum=1
    )


@dataclass
class MaskConfig:
    kind: str = setting("square", "shape of the holes", choices=MASK_KINDS)
    max_size: int = setting(128, "square, rectangle: longest side, pixels", minimum=1)
    max_delta: int = setting(
        40, "square, rectangle: sides shrink by up to max_delta // 2", minimum=0
    )
    margin: int = setting(20, "square, rectangle: least distance to the border, pixels", minimum=0)
    max_holes: int = setting(1, "square, rectangle: most holes per image", minimum=1)
    min_area: float = setting(0.15, "irregular, free_form: smallest share of the image")
    max_area: float = setting(0.5, "irregular, free_form: largest share of the image")
    irregular: IrregularConfig = field(default_factory=IrregularConfig)
    free_form: FreeFormConfig = field(default_factory=FreeFormConfig)
    folder: str = setting("", "files, paired: folder of mask images")
    list: str = setting("", "files: text file that lists masks of the folder; empty: all")
    mixed: str = setting("", "mixed: kinds and weights, such as square:0.5,free_form:0.3,files:0.2")
    fill: tuple[float, float, float] | str = setting(
        (127.5, 127.5, 127.5),
        "RGB in the holes, 0..255; mean: of the training images",
        choices=("mean",),
    )


@dataclass
class PhasesConfig:
    completion_end: int = setting(90_000, "T_C: last step with only the reconstruction loss")
    discriminator_end: int = setting(100_000, "T_D: last step that trains the discriminator only")
    disc_step: int = setting(1, "discriminator updates per generator update after T_D", minimum=1)


@dataclass
class LossConfig:
    l1_hole: float = setting(1.0, "weight of the L1 error in the hole", minimum=0)
    mse_hole: float = setting(0.0, "weight of the squared error in the hole", minimum=0)
    l1_valid: float = setting(0.0, "weight of the L1 error outside the hole", minimum=0)
    tv: float = setting(0.0, "weight of the total variation", minimum=0)
    adversarial: float = setting(0.001, "weight of the adversarial loss", minimum=0)
    adversarial_kind: str = setting("vanilla", "which adversarial loss", choices=ADVERSARIAL_KINDS)
    disc_shift: float = setting(0.0, "weight of the discriminator shift loss", minimum=0)
    random_real_window: bool = setting(False, "the paper's random local window for real samples")


@dataclass
class OptimizerConfig:
    name: str = setting("adam", "the optimizer of both networks", choices=OPTIMIZERS)
    learning_rate: float = setting(4e-4, "greater than 0")
    schedule: str = setting("constant", "cosine falls to 0 at num_steps", choices=SCHEDULES)
    warmup_steps: int = setting(0, "steps of linear warmup", minimum=0)
    clip_norm: float = setting(0.0, "global gradient norm per network; 0: no clipping", minimum=0)


@dataclass
class Config:
    num_steps: int = setting(500_002, "training steps", minimum=1)
    seed: int = setting(0, "below 2**32", minimum=0)
    init_from: str = setting("", "weights to start from, as for --checkpoint")
    global_batch_size: int = setting(96, "images per step on all devices together", minimum=1)
    image_size: int = setting(256, "side in pixels, a multiple of 4", minimum=16)
    precision: str = setting("float32", "what convolutions compute in", choices=PRECISIONS)
    matmul_precision: str = setting(
        "tensorfloat32",
        "how accelerators multiply float32 in training",
        choices=MATMUL_PRECISIONS,
    )
    pixel_blocks: str = setting(
        "auto",
        "train full resolution in blocks of 2x2 pixels; auto: on TPUs",
        choices=("auto", "on", "off"),
    )
    microbatches: int = setting(
        1, "parts of the batch, computed one after another to save memory", minimum=1
    )
    log_every: int = setting(100, "steps between logged metrics", minimum=1)
    eval_every: int = setting(50_000, "steps between evaluations", minimum=1)
    checkpoint_every: int = setting(5_000, "steps between checkpoints", minimum=1)
    keep_every: int = setting(0, "steps between checkpoints that are never deleted", minimum=0)
    best_by: str = setting("l1", "which score makes a checkpoint the best", choices=SCORES)
    max_skipped_updates: int = setting(10, "non-finite updates in a row before stopping", minimum=1)
    max_failed_saves: int = setting(3, "failed saves in a row before stopping", minimum=1)
    ema_decay: float = setting(0.0, "decay of the generator's average; in [0, 1), 0: off")
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
        """Returns self. Raises UserError for the first invalid value."""
        for path, entry in settings():
            _check(path, get_value(self, path), entry)
        self._validate_relations()
        self._validate_mask()
        return self

    def _validate_relations(self) -> None:
        phases, rate = self.phases, self.optimizer.learning_rate
        _require(self.seed < 2**32, "seed", self.seed, f"at most {2**32 - 1}")
        _require(self.model.width % 2 == 0, "model.width", self.model.width, "even")
        _require(
            self.model.base == "none" or self.model.output == "clip",
            "model.output",
            self.model.output,
            f"clip with model.base={self.model.base}",
        )
        _require(
            self.image_size % 4 == 0,
            "image_size",
            self.image_size,
            f"a multiple of 4 (the generator's stride), such as {self.image_size // 4 * 4}",
        )
        _require(rate > 0, "optimizer.learning_rate", rate, "positive")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1); 0 is off")
        _require(
            phases.completion_end <= phases.discriminator_end,
            "phases.discriminator_end",
            phases.discriminator_end,
            f"at least phases.completion_end, {phases.completion_end}",
        )
        _require(
            self.data.crop != "resize_then_crop" or self.data.crop_size >= self.image_size,
            "data.crop_size",
            self.data.crop_size,
            f"at least image_size, {self.image_size}, with data.crop=resize_then_crop",
        )

    def _validate_mask(self) -> None:
        mask = self.mask
        kinds = parse_mixed(mask.mixed) if mask.kind == "mixed" else (mask.kind,)
        if any(kind in BBOX_MASK_KINDS for kind in kinds):
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
        if any(kind in ("files", "paired") for kind in kinds):
            _require(mask.folder != "", "mask.folder", mask.folder, "a folder of mask images")
        if any(kind in STROKE_MASK_KINDS for kind in kinds):
            _require(
                mask.min_area > 0 and mask.min_area + 0.05 <= mask.max_area <= 0.9,
                "mask.min_area, mask.max_area",
                (mask.min_area, mask.max_area),
                "0 < min_area, min_area + 0.05 <= max_area <= 0.9",
            )
        _require(
            mask.fill == "mean" or _are_numbers(mask.fill, 3, minimum=0, maximum=255),
            "mask.fill",
            mask.fill,
            "three values within 0..255, or mean",
        )


def parse_mixed(text: str) -> dict[str, float]:
    """Returns {"square": 2.0, "files": 1.0} for "square:2,files". Raises UserError."""
    weights = {}
    for part in text.split(","):
        kind, _, weight = part.strip().partition(":")
        try:
            weights[kind] = float(weight or 1)
        except ValueError:
            weights[kind] = 0.0
    _require(
        len(weights) == len(text.split(","))
        and all(kind in MIXABLE_MASK_KINDS for kind in weights)
        and all(weight > 0 and isfinite(weight) for weight in weights.values()),
        "mask.mixed",
        text,
        f"different kinds of {', '.join(MIXABLE_MASK_KINDS)} with weights above 0, such as "
        "square:0.5,free_form:0.3,irregular:0.2",
    )
    return weights


def _check(path: str, value: Any, entry: dataclasses.Field) -> None:
    kind = type(entry.default)
    minimum, choices = entry.metadata["minimum"], entry.metadata["choices"]
    if kind is tuple:
        _check_tuple(path, value, entry)
        return
    _require(
        isinstance(value, (int, float) if kind is float else kind),
        path,
        value,
        f"of type {kind.__name__}",
    )
    _require(not isinstance(value, float) or isfinite(value), path, value, "finite")
    _require(minimum is None or value >= minimum, path, value, f"at least {minimum}")
    _require(not choices or value in choices, path, value, f"one of {', '.join(choices)}")


def _check_tuple(path: str, value: Any, entry: dataclasses.Field) -> None:
    minimum, choices = entry.metadata["minimum"], entry.metadata["choices"]
    if isinstance(value, str) and value in choices:
        return
    words = "".join(f" or {word}" for word in choices)
    _require(isinstance(value, tuple), path, value, f"of type tuple{words}")
    if len(entry.default) == 2:  # a range; mask.fill, of three, is checked with the masks
        kind = type(entry.default[0])
        _require(
            _are_numbers(value, 2, minimum=minimum)
            and value[0] <= value[1]
            and (kind is float or all(isinstance(number, int) for number in value)),
            path,
            value,
            f"least,most: two of type {kind.__name__}, at least {minimum}",
        )


def _are_numbers(value: tuple, count: int, *, minimum: Any, maximum: Any = inf) -> bool:
    """Whether `value` holds `count` finite numbers within the limits."""
    return len(value) == count and all(
        isinstance(number, int | float) and isfinite(number) and minimum <= number <= maximum
        for number in value
    )


def _require(condition: bool, path: str, value: Any, allowed: str) -> None:
    if not condition:
        raise UserError(
            f"config.{path} is {value!r}, must be {allowed}; "
            f"change it in the config file or pass --config.{path.split(',')[0]}=VALUE"
        )


def settings(section: type = Config, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Every setting with its path, such as "model.width"."""
    for entry in dataclasses.fields(section):
        if dataclasses.is_dataclass(entry.type):
            yield from settings(entry.type, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, entry


def get_value(config: Config, path: str) -> Any:
    return reduce(getattr, path.split("."), config)


def set_value(config: Config, path: str, value: Any) -> None:
    *sections, name = path.split(".")
    setattr(reduce(getattr, sections, config), name, value)


def to_dict(config: Config) -> dict[str, Any]:
    """A plain nested dict that survives JSON (tuples become lists)."""
    return _to_plain(dataclasses.asdict(config))


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_plain(part) for name, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


# Fields that checkpoints and exported weights of earlier versions may have.
REMOVED_FIELDS = ("gradient_dtype", "batch_norm_devices")


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`. Missing fields get their defaults.

    Raises UserError for fields that this version does not have.
    """
    config = Config()
    fields = {path: value for path, value in flatten(values).items() if path not in REMOVED_FIELDS}
    unknown = fields.keys() - dict(settings()).keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UserError(f"the saved config has fields that this version does not know: {names}")
    for path, value in fields.items():
        set_value(config, path, tuple(value) if isinstance(value, list) else value)
    return config


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, by path, with both values."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    return {path: (before[path], after[path]) for path in before if before[path] != after[path]}
