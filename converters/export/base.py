"""The contract between the pipeline's workers and the toolchains: what goes in (Source), what comes out (Exported).

A `Source` is a folder that the Keras worker prepares once per base model and every toolchain reads::

    source.json        names, sha256, parameters, tensors, facts; written when saved_model/ and the arrays are there
    NAME.facts.json    facts that making the part NAME brought to light; `load_source` joins them to those of source.json
    saved_model/       signature `serving_default`, batch 1, inputs and outputs named as in source.json
    saved_model_unrolled/   the same without loops; only for recurrent models that TensorFlow Lite shall calibrate
    model.onnx         float32, free batch, opset 18; image inputs (see `nchw_inputs`) in NCHW
    model.tflite       float32, batch 1
    check.npz          `in:<input name>` and the base model's `out:<output name>`, float32 or integer, rows first
    calibration.npz    `in:<input name>` rows, and `labels` where the calibration rows have them
    reference.npz      `out:<output name>` of the base on all test rows; only when there is a dataset

Arrays are in the base model's own layout (NHWC for images) and already preprocessed. A toolchain may start as soon as
`source.json` and the parts it names in its `needs` exist.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from converters.errors import ConverterError
from converters.recipe import Recipe
from converters.variant import Signature, TensorSpec, signature_from_dict

SOURCE_SCHEMA = 1
SOURCE_NAME = "source.json"
SAVED_MODEL = "saved_model"
UNROLLED_MODEL = "saved_model_unrolled"
ONNX_MODEL = "model.onnx"
TFLITE_MODEL = "model.tflite"
CHECK = "check.npz"
CALIBRATION = "calibration.npz"
REFERENCE = "reference.npz"
FACTS_SUFFIX = ".facts.json"
# The files that make each part of a source; a folder stands for all files in it.
PART_FILES: dict[str, tuple[str, ...]] = {
    SAVED_MODEL: (SAVED_MODEL, SOURCE_NAME, CHECK, CALIBRATION),
    ONNX_MODEL: (ONNX_MODEL, ONNX_MODEL + FACTS_SUFFIX),
    TFLITE_MODEL: (TFLITE_MODEL,),
    UNROLLED_MODEL: (UNROLLED_MODEL, UNROLLED_MODEL + FACTS_SUFFIX),
}
ONNX_OPSET = 18
IMAGE_LAYOUT = "NHWC"

Array = npt.NDArray[Any]
NHWC_TO_NCHW = (0, 3, 1, 2)
NCHW_TO_NHWC = (0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class Source:
    """A base model, prepared for all toolchains.

    `inputs`, `outputs`: the base model's own tensors, batch None, layout "NHWC" for rank-4 image inputs. `nchw_inputs`:
    names of the inputs that `model.onnx` takes as NCHW. `parameters`: number of weights. `data`: "dataset", or
    "random" for seeded normal inputs where the user gave none. `facts`: what model-dependent refusals ask for
    (`converters.support`). `task`: "classification", "regression" or None when not known. `ledger`: what the model costs before
    the export (`converters.ledger_model.model_ledger`), empty for a SavedModel.
    """

    folder: Path
    name: str
    base_sha256: str
    parameters: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nchw_inputs: tuple[str, ...] = ()
    data: str = "random"
    dataset_sha256: str | None = None
    calibration_sha256: str | None = None
    preprocessing: dict[str, Any] | None = None
    task: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ledger: dict[str, Any] = field(default_factory=dict)

    @property
    def saved_model(self) -> Path:
        """Folder of the SavedModel (batch 1)."""
        return self.folder / SAVED_MODEL

    @property
    def unrolled_model(self) -> Path:
        """Folder of the SavedModel without loops; there only for recurrent models."""
        return self.folder / UNROLLED_MODEL

    @property
    def onnx(self) -> Path:
        """The float32 ONNX file (free batch)."""
        return self.folder / ONNX_MODEL

    @property
    def tflite(self) -> Path:
        """The float32 TFLite file (batch 1)."""
        return self.folder / TFLITE_MODEL

    def check_rows(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Inputs by name and the base model's outputs by name, rows first."""
        with np.load(self.folder / CHECK, allow_pickle=False) as data:
            return _prefixed(data, "in:"), _prefixed(data, "out:")

    def calibration_rows(self) -> tuple[dict[str, Array], Array | None]:
        """Calibration inputs by name, rows first, and their labels where there are any."""
        with np.load(self.folder / CALIBRATION, allow_pickle=False) as data:
            return _prefixed(data, "in:"), data["labels"] if "labels" in data.files else None

    def save(self) -> None:
        """Write `source.json`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "folder"}
        values["inputs"] = [dataclasses.asdict(spec) for spec in self.inputs]
        values["outputs"] = [dataclasses.asdict(spec) for spec in self.outputs]
        text = json.dumps({"schema": SOURCE_SCHEMA, **values}, indent=2, sort_keys=True) + "\n"
        write_whole(self.folder / SOURCE_NAME, text.encode())


def _prefixed(data: Any, prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): data[key] for key in data.files if key.startswith(prefix)}


def save_facts(folder: Path, part: str, facts: dict[str, Any]) -> None:
    """Write what making one part of a source brought to light."""
    write_whole(folder / (part + FACTS_SUFFIX), (json.dumps(facts, sort_keys=True) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """All of it or, on a full disk, nothing: another process may read the file at any time."""
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def load_source(folder: Path) -> Source:
    """Read `source.json` of a source folder. Raises ConverterError when it is missing or of another schema."""
    path = folder / SOURCE_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") != SOURCE_SCHEMA:
            raise ConverterError(f"{path}: not of schema {SOURCE_SCHEMA}")
        signature = signature_from_dict({"inputs": data.pop("inputs"), "outputs": data.pop("outputs")})
        data["nchw_inputs"] = tuple(data["nchw_inputs"])
        data["notes"] = tuple(data["notes"])
        for more in sorted(folder.glob("*" + FACTS_SUFFIX)):
            data["facts"] |= json.loads(more.read_text(encoding="utf-8"))
        return Source(folder=folder, inputs=signature.inputs, outputs=signature.outputs, **data)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConverterError(f"{path}: not a source: {error}") from error


@dataclass(frozen=True, slots=True)
class Exported:
    """What a toolchain made in the folder it was given.

    `artifact`: file name of the main file; `files`: names of all files the engine needs, the artifact among them.
    `signature`: the artifact's tensors as the engine sees them, in the engine's order. `weight_dtypes`: what the constant
    tensors hold, dtype name -> number of elements. `notes`: what a user should know, one line each.
    """

    artifact: str
    files: tuple[str, ...]
    signature: Signature
    weight_dtypes: dict[str, int]
    notes: tuple[str, ...] = ()


class Toolchain(Protocol):
    """A converter that lives in one worker process for the whole matrix.

    The class is called with the Source and a seed; importing its heavy packages there, not at module import, keeps the
    module light. `export` writes into `folder` (which exists and is empty) and raises ToolError or RefusedError
    (`converters.errors`) with the tool's own words.
    """

    def __init__(self, source: Source, seed: int) -> None: ...

    def export(self, recipe: Recipe, folder: Path) -> Exported:
        """Make one variant's files in `folder`."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the packages that decide the result: distribution name -> version."""
        ...


@dataclass(frozen=True, slots=True)
class ToolchainInfo:
    """How the pipeline finds a toolchain without importing it.

    `target` is "module:Class". `needs`: parts of the source folder that must exist first. `preimports`: modules the
    worker imports while it waits. `packages`: distributions whose versions decide the result (for the cache's key).
    `extra`: the optional dependency of this project that installs them.
    """

    name: str
    target: str
    needs: tuple[str, ...]
    preimports: tuple[str, ...]
    packages: tuple[str, ...]
    extra: str = "convert"


TOOLCHAINS: dict[str, ToolchainInfo] = {
    info.name: info
    for info in (
        ToolchainInfo(
            "tflite",
            "converters.export.tflite:TfliteToolchain",
            (SAVED_MODEL,),
            ("tensorflow", "keras"),
            ("tensorflow", "keras", "ai-edge-litert"),
        ),
        ToolchainInfo(
            "ai_edge_quantizer",
            "converters.export.tflite_aeq:AiEdgeQuantizerToolchain",
            (TFLITE_MODEL,),
            ("ai_edge_quantizer.quantizer",),
            ("ai-edge-quantizer", "ai-edge-litert", "tensorflow", "keras"),
        ),
        ToolchainInfo(
            "onnx",
            "converters.export.onnx:OnnxToolchain",
            (ONNX_MODEL,),
            ("onnx", "onnxruntime", "onnxruntime.quantization"),
            ("onnx", "onnxruntime", "onnxslim", "tf2onnx", "tensorflow", "keras"),
        ),
        ToolchainInfo(
            "openvino",
            "converters.export.openvino:OpenvinoToolchain",
            (SAVED_MODEL,),
            ("openvino", "nncf"),
            ("openvino", "nncf", "tensorflow", "keras"),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Workshop:
    """The toolchains of one conversion, and who prepares the source; replaced as a whole in fault drills.

    `preparation` and `checker` are "module:name" targets with the signatures of `converters.export.prepare.Preparation`
    and `converters.check.agreement`. `home`: the toolchain in whose worker the preparation runs.
    `preparation_packages`: distributions whose versions decide what the source holds. `ledger`: who counts an artifact's
    weights, with the signature of `converters.ledger_artifact.artifact_ledger`. `compressor`: who does one step of a
    chain, with the signature of `converters.compress.chain.run_step`, and `compression_packages` likewise.
    """

    toolchains: dict[str, ToolchainInfo]
    preparation: str = "converters.export.prepare:Preparation"
    checker: str = "converters.check:agreement"
    home: str = "tflite"
    preparation_packages: tuple[str, ...] = ("tensorflow", "keras", "tf2onnx", "onnx")
    ledger: str = "converters.ledger_artifact:artifact_ledger"
    compressor: str = "converters.compress.chain:run_step"
    compressor_preimports: tuple[str, ...] = ("tensorflow", "keras")
    compression_packages: tuple[str, ...] = ("tensorflow", "keras", "numpy")


WORKSHOP = Workshop(TOOLCHAINS)
