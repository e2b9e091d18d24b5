"""The user's YAML → a validated Experiment: which base, which recipes, which data, on which devices, measured how.

Knows no toolchain and no device; paths are resolved against the file's own folder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from harness.errors import SpecError
from harness.experiment_parts import DurationNs, Points, ProtocolSpec, Seconds, Share, SizeBytes, Strict
from harness.profiles import DeviceProfile, load_profile, profile_from_data
from harness.search_section import SearchSpec
from harness.yamlfile import read_yaml, validate


class PreprocessingSpec(Strict):
    """What turns stored data into what the base model wants: (x * scale - mean) / std, after resizing."""

    scale: float = Field(default=1.0, description="Multiplied first, e.g. 0.00392156862745098 for 0..255 → 0..1.")
    mean: tuple[float, ...] = Field(default=(), description="Subtracted after scaling: one value, or one per channel.")
    std: tuple[float, ...] = Field(default=(), description="Divided by after that: one value, or one per channel.")
    layout: Literal["NHWC", "NCHW"] | None = Field(default=None, description="Layout of the images as stored.")
    model_layout: Literal["NHWC", "NCHW"] = Field(default="NHWC", description="Layout the base model wants.")
    resize: tuple[int, int] | None = Field(default=None, description="Height and width to resize images to.")
    channels: Literal[1, 3] | None = Field(
        default=None, description="Turn grey into three channels, or colour into one."
    )
    add_channel: bool | None = Field(
        default=None, description="Append a channel axis (default: when the model wants one)."
    )


class DataSpec(Strict):
    """Labelled data: an .npz or a folder of images by class (docs/getting-started)."""

    path: str = Field(description="Path of the .npz or folder, relative to this file.")
    preprocessing: PreprocessingSpec = Field(default_factory=PreprocessingSpec)
    limit: int | None = Field(default=None, ge=1, description="Use only that many test rows (seeded, class-balanced).")
    calibration_size: int = Field(default=200, ge=1, description="Rows for calibration; never test rows.")
    training_limit: int | None = Field(
        default=None,
        ge=2,
        description="Let compression steps train on only that many training rows, validation included (seeded, class-balanced).",
    )


class ConstraintsSpec(Strict):
    """Limits a variant must meet to be chosen, with units: 2ms, 500kB, 64MiB, 0.5 (points)."""

    max_latency: DurationNs | None = Field(default=None, description="Median latency, e.g. 2ms.")
    max_latency_p90: DurationNs | None = Field(default=None, description="90th percentile of latency, e.g. 3ms.")
    max_load: DurationNs | None = Field(default=None, description="Load and compile time, e.g. 500ms.")
    max_size: SizeBytes | None = Field(default=None, description="Size of the artifact's files, e.g. 500kB.")
    max_memory: SizeBytes | None = Field(
        default=None, description="Peak resident memory over the bare engine's, e.g. 64MiB."
    )
    max_drop: Points | None = Field(default=None, description="Accuracy lost against the base, in points, e.g. 0.5.")
    min_accuracy: Share | None = Field(default=None, description="Accuracy at least, e.g. 0.88 or 88%.")
    max_rmse_ratio: float | None = Field(default=None, gt=0, description="Regression: RMSE over the base's, e.g. 1.05.")
    objective: Literal["latency", "size", "accuracy", "memory"] = Field(
        default="latency", description="What to win by."
    )


class ConversionSpec(Strict):
    """Limits of the converters."""

    jobs: int = Field(default=2, ge=1, le=64, description="Toolchains at work at once.")
    timeout_s: float = Field(default=900, gt=0, description="Time limit of one variant.")
    memory_limit: SizeBytes | None = Field(default=None, description="Memory limit of one toolchain, e.g. 8GiB.")


class TrainingSpec(Strict):
    """How compression steps train (docs/compression)."""

    function: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="Your own training function instead of the built-in loop, module:name; the module lies beside this file.",
    )
    precision_policy: str | None = Field(
        default=None, description="Keras's dtype policy while the built-in loop trains, e.g. mixed_bfloat16."
    )
    limit: int | None = Field(default=None, ge=2, description="The same as data.training_limit.")
    timeout: Seconds = Field(default=3600, gt=0, description="Time limit of one compression step, e.g. 2h.")

    @model_validator(mode="after")
    def _one_says_how(self) -> TrainingSpec:
        if self.function is not None and self.precision_policy is not None:
            raise ValueError("a training function of your own sets its precision itself: leave out precision_policy")
        return self


class Experiment(Strict):
    """One experiment: a base model with recipes, or finished artifacts, or both; on devices."""

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    base: str | None = Field(default=None, description="Base model: .keras, .h5 or a SavedModel folder.")
    base_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of the base in variant names (default: the file's).",
    )
    recipes: str | list[str | dict[str, Any]] = Field(
        default="all",
        description="'all', names, format:name, chains such as 'prune(0.5) > cluster(16) > static_wi8_ai8 @ tflite', or mappings.",
    )
    artifacts: list[str] = Field(
        default_factory=list, description="Variant folders or .tflite/.onnx/.xml made elsewhere."
    )
    data: DataSpec | None = None
    devices: list[str | dict[str, Any]] = Field(default=["local"], min_length=1)
    protocol: ProtocolSpec = Field(default_factory=ProtocolSpec)
    threads: int = Field(default=1, ge=1, le=256)
    precision: Literal["f32", "auto"] = Field(
        default="f32", description="f32: never let an engine lower it in silence."
    )
    engine_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed to every engine, e.g. xnnpack: false, graph_optimization: disable, or inject: a slowdown of known size (docs/extending).",
    )
    constraints: ConstraintsSpec = Field(default_factory=ConstraintsSpec)
    conversion: ConversionSpec = Field(default_factory=ConversionSpec)
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    search: SearchSpec | None = Field(
        default=None, description="What `harness search` looks for, and where (docs/search)."
    )
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _something_to_do(self) -> Experiment:
        if self.base is None and not self.artifacts:
            raise ValueError("give a 'base' model to convert, or 'artifacts' to measure")
        if self.data is not None and self.data.training_limit is not None and self.training.limit is not None:
            raise ValueError("data.training_limit and training.limit are the same: give one of them")
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedExperiment:
    """An experiment with the folder its paths are relative to and its devices resolved."""

    experiment: Experiment
    folder: Path
    devices: tuple[DeviceProfile, ...]

    def resolve(self, path: str) -> Path:
        """A path of the experiment as seen from the current folder."""
        expanded = Path(path).expanduser()
        return expanded if expanded.is_absolute() else self.folder / expanded

    def training_function(self) -> str | None:
        """The user's own training function as `/path/to/file.py:name`. Raises SpecError when there is no such file."""
        function = self.experiment.training.function
        if function is None:
            return None
        module, _, name = function.partition(":")
        file = self.folder.joinpath(*module.split(".")).with_suffix(".py").resolve()
        if not file.is_file():
            raise SpecError(
                f"{file}: no such file, so no training function '{name}'", remedy="it lies beside the experiment"
            )
        return f"{file}:{name}"

    @property
    def training_limit(self) -> int | None:
        """How many training rows may be used at most."""
        data = self.experiment.data
        return self.experiment.training.limit if data is None or data.training_limit is None else data.training_limit


def resolve_devices(entries: list[str | dict[str, Any]], path: Path) -> tuple[DeviceProfile, ...]:
    """Profiles named or given in line; names must differ. Raises SpecError."""
    devices = tuple(
        load_profile(entry, path.parent) if isinstance(entry, str) else profile_from_data(entry, path)
        for entry in entries
    )
    names = [device.name for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{path}: two devices are called '{name}'", remedy="give one of them another 'name'")
    return devices


def load_experiment(path: Path) -> LoadedExperiment:
    """Read, validate and resolve an experiment. Raises SpecError naming file, line and key."""
    data, lines = read_yaml(path)
    experiment = validate(Experiment, data, path, lines)
    return LoadedExperiment(experiment, path.parent, resolve_devices(experiment.devices, path))
