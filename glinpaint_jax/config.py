"""The typed configuration of a run. Field names are public: people script against them.

A file in configs/ defines `get_config() -> Config`; --config.model.width=32 changes one field.
"""

import ast
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from glinpaint_jax.errors import UserError

PRECISIONS = ("float32", "bfloat16")
SCORES = ("l1", "psnr", "ssim", "ms_ssim", "patches")
LOWER_IS_BETTER = ("l1", "patches")
CROPS = ("crop_then_resize", "resize_then_crop")
BBOX_MASK_KINDS = ("square", "rectangle")
STROKE_MASK_KINDS = ("irregular", "free_form")
MIXABLE_MASK_KINDS = (*BBOX_MASK_KINDS, *STROKE_MASK_KINDS, "thin", "medium", "thick", "files")
MASK_KINDS = (*MIXABLE_MASK_KINDS, "paired", "mixed")
ADVERSARIAL_KINDS = ("vanilla", "lsgan", "hinge", "wgan")
LOGS = ("tensorboard", "wandb")
MAX_STEPS = 2**31 - 1  # steps are counted in int32
LARGEST = sys.float_info.max  # longer whole numbers cannot become floats


def setting(
    default: Any, meaning: str, minimum: Any = -LARGEST, maximum: Any = LARGEST, choices: tuple = ()
) -> Any:
    """A field with its meaning, which --help shows, and the bounds of its value or values."""
    metadata = {"meaning": meaning, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    width: int = setting(64, "channels of the first convolution, even", minimum=2, maximum=1024)
    output: str = setting("clip", "MMagic's, or the paper's sigmoid", choices=("clip", "sigmoid"))
    base: str = setting("none", "smooth: corrects a smooth fill", choices=("none", "smooth"))
    padding: str = setting(
        "gray", "beyond the border; fill: mask.fill, as the authors do", choices=("gray", "fill")
    )


@dataclass
class DataConfig:
    source: str = setting(
        "photos",
        "photos, folder:PATH[:LIST], tfds:NAME:SPLIT or array_record:GLOB; A|B: the first found",
    )
    eval_source: str = setting("", "of evaluation; empty: data.source's validation images")
    eval_images: int = setting(1000, "most images per evaluation set", minimum=1)
    num_workers: int = setting(4, "worker processes that read images; 0: threads", minimum=0)
    crop: str = setting("crop_then_resize", "MMagic's order, or the paper's", choices=CROPS)
    crop_size: int = setting(384, "crop's side; resize_then_crop: largest short side", minimum=1)
    horizontal_flip: bool = setting(False, "flip training images at random")


@dataclass
class IrregularConfig:
    lines: tuple[int, int] = setting((4, 8), "lines per mask", minimum=1)
    length: tuple[int, int] = setting((10, 99), "pixels per stroke, at 256x256", minimum=1)
    width: tuple[int, int] = setting((10, 39), "pixels, at 256x256", minimum=1)


@dataclass
class FreeFormConfig:
    strokes: tuple[int, int] = setting((1, 4), "brush strokes per mask", minimum=1)
    vertices: tuple[int, int] = setting((4, 12), "turns per stroke", minimum=1)
    length: tuple[float, float] = setting((0.0, 0.25), "of the diagonal, between turns", minimum=0)
    width: tuple[float, float] = setting((12.0, 40.0), "pixels, at 256x256", minimum=1)


@dataclass
class MaskConfig:
    kind: str = setting("square", "shape; thin to thick are LaMa's", choices=MASK_KINDS)
    max_size: int = setting(128, "square, rectangle: longest side, pixels", minimum=1)
    max_delta: int = setting(40, "square, rectangle: sides shrink by up to half of it", minimum=0)
    margin: int = setting(20, "square, rectangle: least distance to the border, pixels", minimum=0)
    max_holes: int = setting(1, "square, rectangle: most holes per image", minimum=1)
    min_area: float = setting(0.15, "irregular, free_form: smallest share of the image")
    max_area: float = setting(0.5, "irregular, free_form: largest share of the image")
    irregular: IrregularConfig = field(default_factory=IrregularConfig)
    free_form: FreeFormConfig = field(default_factory=FreeFormConfig)
    folder: str = setting("", "files, paired: folder of mask images")
    list: str = setting("", "files: text file that lists masks of the folder; empty: all")
    mixed: str = setting("", "mixed: kinds and weights, such as square:0.5,free_form:0.3,files:0.2")
    fill: tuple[float, float, float] = setting((127.5,) * 3, "RGB in holes", minimum=0, maximum=255)

    @property
    def kinds(self) -> dict[str, float]:
        """The kinds of the holes and their weights, such as {"square": 2.0, "files": 1.0}."""
        if self.kind != "mixed":
            return {self.kind: 1.0}
        entries = [entry.strip().partition(":") for entry in self.mixed.split(",")]
        weights = {}
        with contextlib.suppress(ValueError):
            weights = {kind: float(weight or 1) for kind, _, weight in entries}
        if len(weights) == len(entries) and all(
            kind in MIXABLE_MASK_KINDS and 0 < weight <= LARGEST for kind, weight in weights.items()
        ):
            return weights
        kinds = ", ".join(MIXABLE_MASK_KINDS)
        allowed = f"different kinds of {kinds} with weights above 0, such as square:0.5,files:0.3"
        raise invalid("mask.mixed", self.mixed, allowed)


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
    name: str = setting("adam", "the optimizer of both networks", choices=("adam", "adadelta"))
    learning_rate: float = setting(4e-4, "after the warmup, above 0")
    discriminator_learning_rate: float = setting(0.0, "0: the same as learning_rate", minimum=0)
    schedule: str = setting(
        "constant", "cosine falls to 0 at num_steps", choices=("constant", "cosine")
    )
    warmup_steps: int = setting(0, "steps of linear warmup", minimum=0, maximum=MAX_STEPS)
    clip_norm: float = setting(0.0, "global gradient norm per network; 0: no clipping", minimum=0)


@dataclass
class Config:
    num_steps: int = setting(500_002, "training steps", minimum=1, maximum=MAX_STEPS)
    seed: int = setting(0, "of all random numbers", minimum=0, maximum=2**32 - 1)
    init_from: str = setting("", "weights to start from, as for --checkpoint")
    global_batch_size: int = setting(96, "images per step on all devices together", minimum=1)
    image_size: int = setting(256, "side in pixels, a multiple of 4", minimum=16)
    precision: str = setting("float32", "what convolutions compute in", choices=PRECISIONS)
    matmul_precision: str = setting(
        "tensorfloat32", "how accelerators multiply float32", choices=("tensorfloat32", "float32")
    )
    pixel_blocks: str = setting(
        "auto",
        "train full resolution in blocks of 2x2 pixels; auto: on TPUs",
        choices=("auto", "on", "off"),
    )
    microbatches: int = setting(1, "parts of a batch, one after another: less memory", minimum=1)
    log_every: int = setting(100, "steps between logged metrics", minimum=1)
    log_to: str = setting("tensorboard", "tensorboard, wandb, both (with a comma) or none")
    eval_every: int = setting(50_000, "steps between evaluations", minimum=1)
    eval_masks: str = setting(
        "training",
        "of evaluation: training (as mask says), thin, medium, thick, files:FOLDER, paired:FOLDER "
        "or several, with commas",
    )
    checkpoint_every: int = setting(5_000, "steps between checkpoints", minimum=1)
    keep_every: int = setting(0, "steps between checkpoints that are never deleted", minimum=0)
    best_by: str = setting("l1", "which score makes a checkpoint the best", choices=SCORES)
    max_skipped_updates: int = setting(10, "non-finite updates in a row before stopping", minimum=1)
    max_failed_saves: int = setting(3, "failed saves in a row before stopping", minimum=1)
    ema_decay: float = setting(0.0, "decay of the generator's average; 0: off", minimum=0)
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
        check_bounds(self)
        for mask in (self.mask, *self.evaluation_masks().values()):
            config = dataclasses.replace(self, mask=mask)
            for holds, path, allowed in config._rules():
                if not holds:
                    raise invalid(path, get_value(config, path), allowed)
        return self

    def evaluation_masks(self) -> dict[str, MaskConfig]:
        """The masks of evaluations by name, such as thin, or the name of a folder."""
        masks, entries = {}, [entry.strip().partition(":") for entry in self.eval_masks.split(",")]
        for kind, _, folder in entries:
            needs_folder = kind in ("files", "paired")
            if kind == "training" and not folder:
                masks[kind] = self.mask
            elif kind in MASK_KINDS and kind != "mixed" and bool(folder) == needs_folder:
                mask = dataclasses.replace(self.mask, kind=kind, folder=folder, list="")
                masks[Path(folder).name or kind] = mask
        if len(masks) < len(entries):
            kinds = ", ".join(kind for kind in MIXABLE_MASK_KINDS if kind != "files")
            allowed = f"different ones of training, {kinds}, files:FOLDER and paired:FOLDER"
            raise invalid("eval_masks", self.eval_masks, allowed)
        return masks

    @property
    def logs(self) -> list[str]:
        """The different names in log_to."""
        names = dict.fromkeys(name.strip() for name in self.log_to.split(","))
        return [] if self.log_to == "none" else [*names]

    def _rules(self) -> Iterator[tuple[bool, str, str]]:
        """Yields what bounds cannot say: whether it holds, a field, and what that may be."""
        model, data, phases, size = self.model, self.data, self.phases, self.image_size
        end, resized_first = phases.completion_end, data.crop == "resize_then_crop"
        yield model.width % 2 == 0, "model.width", "even"
        clipped = model.output == "clip"
        yield clipped or model.base == "none", "model.output", "clip with model.base=smooth"
        yield size % 4 == 0, "image_size", f"a multiple of 4, such as {size // 4 * 4}"
        yield self.optimizer.learning_rate > 0, "optimizer.learning_rate", "positive"
        yield self.ema_decay < 1, "ema_decay", "below 1; 0 is off"
        yield set(self.logs) <= set(LOGS), "log_to", f"{' or '.join(LOGS)}, both, or none"
        late = f"at least phases.completion_end, {end}"
        yield end <= phases.discriminator_end, "phases.discriminator_end", late
        large = f"at least image_size, {size}, with data.crop=resize_then_crop"
        yield data.crop_size >= size or not resized_first, "data.crop_size", large
        mask, kinds = self.mask, set(self.mask.kinds)
        if kinds & set(BBOX_MASK_KINDS):
            room = size - 2 * mask.margin - 1
            fitting = f"at most image_size - 2 * mask.margin - 1 = {room}"
            yield mask.max_size <= room, "mask.max_size", fitting
            smaller = f"less than twice mask.max_size, {2 * mask.max_size}, or no hole is left"
            yield mask.max_delta // 2 < mask.max_size, "mask.max_delta", smaller
        if kinds & set(STROKE_MASK_KINDS):
            low = mask.min_area + 0.05
            yield mask.min_area > 0, "mask.min_area", "positive"
            between = f"mask.min_area + 0.05, {low:g}, to 0.9"
            yield low <= mask.max_area <= 0.9, "mask.max_area", between
        if kinds & {"files", "paired"}:
            yield mask.folder != "", "mask.folder", "a folder of mask images"


def check_bounds(config: Config) -> None:
    for path, entry in settings():
        if not is_allowed(value := get_value(config, path), entry):
            raise invalid(path, value, describe_allowed(entry))


def is_allowed(value: Any, entry: dataclasses.Field) -> bool:
    """Whether `value` is of the setting's type and within its bounds."""
    default, metadata = entry.default, entry.metadata
    if isinstance(default, bool | str):
        choices = metadata["choices"]
        return isinstance(value, type(default)) and (not choices or value in choices)
    if not isinstance(default, tuple):
        default, value = (default,), (value,)
    kind = int | float if isinstance(default[0], float) else int
    return (
        isinstance(value, tuple)
        and len(value) == len(default)
        and all(isinstance(number, kind) and type(number) is not bool for number in value)
        and all(metadata["minimum"] <= number <= metadata["maximum"] for number in value)
        and (len(value) != 2 or value[0] <= value[1])  # pairs are ranges
    )


def describe_allowed(entry: dataclasses.Field) -> str:
    """Such as "of type int, at least 1"."""
    kind, default = f"of type {type(entry.default).__name__}", entry.default
    if isinstance(default, tuple):
        kind = "a range" if len(default) == 2 else f"{len(default)} numbers"
        kind += f" such as {','.join(map(str, default))}"
    return ", ".join(filter(None, (kind, describe_bounds(entry))))


def describe_bounds(entry: dataclasses.Field) -> str:
    """Such as "at least 1"; empty if there are none."""
    minimum, maximum, choices = (entry.metadata[k] for k in ("minimum", "maximum", "choices"))
    if choices:
        return f"one of {', '.join(choices)}"
    if maximum < LARGEST:
        return f"{minimum} to {maximum}"
    return f"at least {minimum}" if minimum > -LARGEST else ""


def invalid(path: str, value: Any, allowed: str) -> UserError:
    return UserError(
        f"config.{path} is {value!r}, must be {allowed}; "
        f"change it in the config file or pass --config.{path}=VALUE"
    )


def parse_value(text: str, entry: dataclasses.Field) -> Any:
    """Returns what a flag's text stands for, or else the text, for `validate` to reject."""
    value, kind = text, type(entry.default)
    if kind is bool:
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif kind is not str:
        with contextlib.suppress(SyntaxError, TypeError, ValueError):
            value = ast.literal_eval(text)
    is_whole = kind is int and isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value  # 1e5 is whole


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
    """A plain nested dict, as JSON has it: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


# Fields that checkpoints and exported weights of earlier versions may have.
REMOVED_FIELDS = ("gradient_dtype", "batch_norm_devices")


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`. Missing fields get their defaults."""
    config = Config()
    fields = {path: value for path, value in flatten(values).items() if path not in REMOVED_FIELDS}
    if unknown := fields.keys() - dict(settings()).keys():
        names = ", ".join(sorted(unknown))
        raise UserError(f"the saved config has fields that this version does not know: {names}")
    for path, value in fields.items():
        set_value(config, path, tuple(value) if isinstance(value, list) else value)
    check_bounds(config)
    return config


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, by path, with both values."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    return {path: (before[path], after[path]) for path in before if before[path] != after[path]}
