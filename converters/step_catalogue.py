"""The catalogue of compression steps: their parameters, what they need, and the papers they come from, as data.

Read by `converters.steps`. Each entry names its module in `converters.compress`, which is imported in a worker only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from converters.errors import RecipeError
from converters.networks.catalogue import NETWORKS

_WORDS = {"true": True, "false": False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a step. `kind`: float, int, str or bool. `low`, `high`: bounds that belong to the range themselves,
    unless `open_ended` (then neither does). `choices`: the words that a str may be. `required`: has no default.
    `syntax`: a regular expression that a text must match, and the same in words. `is_long`: stands in names by a digest.
    `is_path`: names a file, whose content is a part of what the step does, unless it is one of the `names`."""

    name: str
    kind: type
    default: Any = None
    help: str = ""
    low: float | None = None
    high: float | None = None
    open_ended: bool = False
    choices: tuple[str, ...] = ()
    required: bool = False
    syntax: tuple[str, str] | None = None
    is_long: bool = False
    is_path: bool = False
    names: tuple[str, ...] = ()

    def names_file(self, value: Any) -> bool:
        """Whether `value` of this parameter is the path of a file."""
        return self.is_path and bool(value) and value not in self.names

    def checked(self, value: Any, step: str) -> Any:
        """`value`, or what its text spells, as this parameter's kind. Raises RecipeError."""
        if value is None and not self.required and self.default is None:
            return None
        found = self._converted(value)
        if found is None or (self.choices and found not in self.choices):
            wanted = " or ".join(self.choices) if self.choices else _KINDS[self.kind]
            raise RecipeError(f"{step}: {self.name} is {value!r}, but must be {wanted}")
        if found and self.syntax is not None and not re.fullmatch(self.syntax[0], str(found)):
            raise RecipeError(f"{step}: {self.name} is {value!r}, but must be {self.syntax[1]}")
        if isinstance(found, int | float) and not isinstance(found, bool) and not self._within(found):
            brackets = "()" if self.open_ended else "[]"
            low, high = ("…" if bound is None else f"{bound:g}" for bound in (self.low, self.high))
            raise RecipeError(
                f"{step}: {self.name} is {found:g}, but must be in {brackets[0]}{low}, {high}{brackets[1]}"
            )
        return found

    def _converted(self, value: Any) -> Any:
        text = str(value).strip().lower()
        try:
            if self.kind is bool:
                return value if isinstance(value, bool) else _WORDS.get(text)
            if isinstance(value, bool):
                return None
            if self.kind is int:
                return int(text) if float(text).is_integer() else None
            if self.kind is float:
                number = float(text)
                return number if abs(number) != float("inf") and number == number else None  # noqa: PLR0124  NaN
        except ValueError:
            return None
        return str(value).strip()

    def _within(self, value: float) -> bool:
        if self.open_ended:
            return (self.low is None or value > self.low) and (self.high is None or value < self.high)
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


_KINDS = {float: "a number", int: "a whole number", str: "a word", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One step. `target`: "module:function" in `converters.compress`. `trains`: whether it (also) trains, and so needs
    labelled training rows; `trains_if`: names of parameters that make it train when they are above 0. `paper`: where the method comes
    from. `example`: how it is written."""

    name: str
    target: str
    summary: str
    paper: str
    example: str
    parameters: tuple[Parameter, ...] = ()
    trains: bool = False
    trains_if: tuple[str, ...] = ("epochs",)


def _epochs(default: int) -> Parameter:
    return Parameter("epochs", int, default, "epochs of fine-tuning afterwards, 0 for none", 0, 10_000)


_RATE = Parameter(
    "learning_rate", float, None, "of the fine-tuning (default: chosen by the step)", 0, 10, open_ended=True
)
_TUNING = (_epochs(3), _RATE)

# The word for the model as it was before the first step.
TEACHER_BASE = "base"
_METHODS = ("soft", "hints", "attention")


def _teaching(default: str, whose: str) -> tuple[Parameter, ...]:
    """Parameters of a training under a teacher. `default`: who teaches unless another is named, "" for nobody."""
    return (
        Parameter(
            "teacher",
            str,
            default,
            f"who teaches{whose}: base, or the path of another trained model (.keras, .h5) for the same rows and answers",
            is_path=True,
            names=(TEACHER_BASE,),
            syntax=(
                rf"{TEACHER_BASE}|.+\.(?:keras|h5|hdf5)",
                f"{TEACHER_BASE} or, since what `harness networks` lists has learnt nothing yet, the file of a trained model like big.keras",
            ),
        ),
        Parameter("temperature", float, 4.0, "softens both answers", 0, 100, open_ended=True),
        Parameter("alpha", float, 0.7, "weight of the teacher's answers; the rest is the labels'", 0, 1),
        Parameter("method", str, "soft", "what is learnt beside the answers", choices=_METHODS),
    )


_LAYER_RATIO = r"[^:/\s]+:(?:0?\.\d+|0\.?|\d+(?:\.\d+)?e-\d+)"
_STRIDE = Parameter(
    "stride",
    str,
    "keep",
    "relax: the first layer with a stride gets the stride 1, to keep detail",
    choices=("keep", "relax"),
)
_INPUT = Parameter("input", str, "", "name of the input to transform, where the model has several")

STEPS: dict[str, StepInfo] = {
    info.name: info
    for info in (
        StepInfo(
            "prune",
            "converters.compress.prune:apply",
            "sets the smallest weights to zero; the shapes stay",
            "Han et al., arXiv:1506.02626; adaptive: Lee et al., arXiv:2010.07611; schedule: Zhu and Gupta, arXiv:1710.01878; N:M: Mishra et al., arXiv:2104.08378",
            "prune(0.5)",
            (
                Parameter("sparsity", float, 0.5, "share of the weights that become zero", 0, 1, open_ended=True),
                Parameter("scope", str, "adaptive", "rank weights over the whole model by their share in their layer, or by magnitude, or the same share of each layer", choices=("adaptive", "global", "layer")),
                Parameter("schedule", str, "polynomial", "all at once, or growing while training", choices=("constant", "polynomial")),
                Parameter("pattern", str, "", "N:M such as 2:4: N of M neighbours stay; sparsity follows from it"),
                *_TUNING,
            ),
        ),
        StepInfo(
            "prune_structured",
            "converters.compress.prune_structured:apply",
            "removes filters, neurons and residual blocks from the graph, and what depends on them",
            "Li et al., arXiv:1608.08710; Liu et al., arXiv:1708.06519; Molchanov et al., arXiv:1906.10771; Fang et al., arXiv:2301.12900",
            "prune_structured(0.5)",
            (
                Parameter("ratio", float, 0.5, "share of the parameters (or MACs) to remove", 0, 1, open_ended=True),
                Parameter("by", str, "l2", "what makes a filter matter", choices=("l1", "l2", "batch_norm", "taylor", "activation")),
                Parameter("target", str, "parameters", "what the ratio is a share of", choices=("parameters", "macs")),
                Parameter("scope", str, "global", "rank filters over the whole model, or the same share of each layer", choices=("global", "layer")),
                Parameter("blocks", bool, False, "also remove whole residual blocks"),
                Parameter("iterations", int, 1, "prune and retrain in that many rounds", 1, 1_000),
                Parameter("max_drop", float, None, "stop before the validation accuracy has dropped by more (0.01 is one point; one iteration then means five)", 0, 1, open_ended=True),
                Parameter(
                    "ratios",
                    str,
                    "",
                    "share of the filters to remove of each layer, like conv1:0.3/conv2:0.5, instead of ratio; layers that are not named keep theirs",
                    syntax=(f"{_LAYER_RATIO}(?:/{_LAYER_RATIO})*", "layers with shares below 1, like conv1:0.3/conv2:0.5"),
                    is_long=True,
                ),
                *_TUNING,
            ),
        ),
        StepInfo(
            "cluster",
            "converters.compress.cluster:apply",
            "lets the weights of a layer share few values (k-means)",
            "Han et al., arXiv:1510.00149; k-means++: Arthur and Vassilvitskii, SODA 2007",
            "cluster(16)",
            (
                Parameter("clusters", int, 16, "values per layer", 2, 4096),
                Parameter("initialisation", str, "linear", "of the centroids", choices=("linear", "density", "kmeans++")),
                Parameter("keep_zeros", bool, True, "zeros of an earlier pruning stay zeros"),
                *_TUNING,
            ),
        ),
        StepInfo(
            "factorize",
            "converters.compress.factorize:apply",
            "writes a layer as a product of smaller ones",
            "SVD: Denton et al., arXiv:1404.0736; spatial SVD: Jaderberg et al., arXiv:1405.3866; Tucker-2: Kim et al., "
            "arXiv:1511.06530; CP: Lebedev et al., arXiv:1412.6553",
            "factorize(0.5)",
            (
                Parameter("ratio", float, 0.5, "share of the parameters to keep of all layers that can be factorized", 0, 1, open_ended=True),
                Parameter("method", str, "auto", "of convolutions; dense layers always by SVD", choices=("auto", "svd", "spatial_svd", "tucker", "cp")),
                Parameter("energy", float, None, "choose ranks by the share of squared singular values kept, instead of by ratio", 0, 1, open_ended=True),
                Parameter("rank", int, None, "the same given rank everywhere, instead of by ratio", 1, 100_000),
                *_TUNING,
            ),
        ),
        StepInfo(
            "distill",
            "converters.compress.distill:apply",
            "trains the model, or a smaller student, to answer as its teacher does, by default the base",
            "Hinton et al., arXiv:1503.02531; hints: Romero et al., arXiv:1412.6550; attention: Zagoruyko and Komodakis, arXiv:1612.03928",
            "distill(width=0.75)",
            (
                Parameter("width", float, None, "the student is the model with that share of its filters, begun anew", 0, 4, open_ended=True),
                Parameter(
                    "student",
                    str,
                    "",
                    "a student of another kind: a network of `harness networks`, of which width is then the multiplier, or the path of your own (.keras)",
                    is_path=True,
                    names=tuple(NETWORKS),
                ),
                Parameter("resolution", float, None, "of a student of `harness networks`: multiplies the sides of its images", 0, 4, open_ended=True),
                *_teaching(TEACHER_BASE, ""),
                Parameter("epochs", int, 10, "epochs of training", 1, 10_000),
                _RATE,
            ),
            trains=True,
        ),
        StepInfo(
            "fine_tune",
            "converters.compress.fine_tune:apply",
            "trains on, with the labels alone: the control for every step that trains",
            "none: ordinary training",
            "fine_tune(3)",
            (Parameter("epochs", int, 3, "epochs of training", 1, 10_000), _RATE),
            trains=True,
        ),
        StepInfo(
            "qat",
            "converters.compress.quantize_aware:apply",
            "trains with the rounding of integers in the loop",
            "Jacob et al., arXiv:1712.05877; learned step size: Esser et al., arXiv:1902.08153; under a teacher: Mishra and Marr, arXiv:1711.05852",
            "qat > static_wi8_ai8",
            (
                Parameter("weight_bits", int, 8, "bits of the weights", 4, 8),
                Parameter("ranges", str, "moving", "of activations: moving averages, or learned", choices=("moving", "learned")),
                Parameter("granularity", str, "per_channel", "of the weights", choices=("per_channel", "per_tensor")),
                *_teaching("", " the rounded network, beside the labels"),
                Parameter("epochs", int, 3, "epochs of training", 1, 10_000),
                _RATE,
            ),
            trains=True,
        ),
        StepInfo(
            "equalize",
            "converters.compress.equalize:apply",
            "moves a factor per channel from one layer to the next, so that the channels of a layer have equal ranges; the function stays",
            "cross-layer equalisation: Nagel et al., arXiv:1906.04721, section 4.1",
            "equalize > static_wi8_ai8",
            (Parameter("rounds", int, 20, "over all pairs of layers at most", 1, 1_000),),
        ),
        StepInfo(
            "calibrate",
            "converters.compress.calibrate:apply",
            "chooses ranges of activations and scales of weights on calibration rows, outlier-aware, the same for every format",
            "squared error: as in Nagel et al., arXiv:2106.08295, section 3.1; entropy: Migacz, GTC 2017",
            "equalize > calibrate(mse) > static_wi8_ai8",
            (
                Parameter("method", str, "mse", "of ranges: least squared error, least divergence, percentile, or extremes", choices=("mse", "entropy", "percentile", "minmax")),
                Parameter("percentile", float, 99.99, "of the method percentile", 50, 100),
                Parameter("weight_bits", int, 8, "bits of the weights", 4, 8),
                Parameter("granularity", str, "per_channel", "of the weights", choices=("per_channel", "per_tensor")),
                Parameter("weight_scales", str, "mse", "of weights: least squared error, or the largest weight", choices=("mse", "largest")),
            ),
        ),
        StepInfo(
            "adaround",
            "converters.compress.adaround:apply",
            "learns on calibration rows which weights to round up and which down, layer by layer",
            "Nagel et al., arXiv:2004.10568",
            "calibrate(mse, weight_bits=4) > adaround > static_wi4_ai8",
            (
                Parameter("weight_bits", int, None, "bits of the weights, where no calibrate stands before it (then 8)", 4, 8),
                Parameter("iterations", int, 1000, "of learning, per layer", 1, 1_000_000),
            ),
        ),
        StepInfo(
            "correct_bias",
            "converters.compress.correct_bias:apply",
            "shifts each bias by the mean error that quantization makes in its channel, on calibration rows",
            "Nagel et al., arXiv:1906.04721, section 4.2",
            "calibrate(mse) > correct_bias > static_wi8_ai8",
            (Parameter("weight_bits", int, None, "bits of the weights, where no calibrate stands before it (then 8)", 4, 8),),
        ),
        StepInfo(
            "lower_resolution",
            "converters.compress.transform_input:lower_resolution",
            "the network sees its input at a part of the resolution; the reduction is its first layer",
            "resolution multiplier: Howard et al., arXiv:1704.04861",
            "lower_resolution(0.5)",
            (
                Parameter("scale", float, 0.5, "of rows and columns, or of time steps: 0.5, 0.33 …; any from 0.5 with bilinear", 0, 1, open_ended=True),
                Parameter("method", str, "average", "how values are joined", choices=("average", "bilinear")),
                _STRIDE,
                _INPUT,
                *_TUNING,
            ),
        ),
        StepInfo(
            "grayscale",
            "converters.compress.transform_input:grayscale",
            "the network sees pictures without colour; the mix of channels is its first layer",
            "luma: Rec. ITU-R BT.601",
            "grayscale",
            (
                Parameter("weights", str, "luma", "of red, green and blue; trained: begun there and trained on", choices=("luma", "trained")),
                _INPUT,
                *_TUNING,
            ),
        ),
        StepInfo(
            "haar",
            "converters.compress.transform_input:haar",
            "the network sees bands of Haar's wavelet at half the resolution; the wavelet is its first layer",
            "Haar, Mathematische Annalen 69, 1910; Mallat, IEEE PAMI 11(7), 1989; bands as channels: Fujieda et al., arXiv:1805.08620",
            "haar(all)",
            (
                Parameter("bands", str, "low", "the low one, or all as channels", choices=("low", "all")),
                _STRIDE,
                _INPUT,
                *_TUNING,
            ),
        ),
        StepInfo(
            "mixed",
            "converters.compress.mixed_precision:apply",
            "gives each layer the bits that it needs, by measured sensitivity, within a budget",
            "sensitivity: Cai et al., arXiv:2001.00281 (ZeroQ), Dong et al., arXiv:1911.03852 (HAWQ); integer program: Yao et al., "
            "arXiv:2011.10680 (HAWQ-V3)",
            "mixed(4.5) > static_wi8_ai8",
            (
                Parameter("bits", float, None, "mean bits of the weights (4.5 where no other budget is given)", 2, 16),
                Parameter("size_bytes", int, None, "bytes of all weights: kernels with their bits, the rest in float32", 1, 10**12),
                Parameter("bit_operations", float, None, "products times the bits of both factors, as a share of what they are with 8 bits everywhere", 0, 4, open_ended=True),
                Parameter("latency_ms", float, None, "of one inference, by the latency_table", 0, 10**7, open_ended=True),
                Parameter("latency_table", str, "", "path of measured times by bits and layer (.json), from `harness explain`", is_path=True),
                Parameter("candidates", str, "8/6/4/3/2", "bits that a layer may have, of 2 to 16", syntax=(r"\d+(?:/\d+)*", "numbers of bits like 8/4/2")),
                Parameter("activations", str, "8", "bits that activations may have, where bit_operations are given", choices=("8", "16/8")),
                Parameter("granularity", str, "per_channel", "of the weights", choices=("per_channel", "per_tensor")),
                *_teaching("", " while training with the bits chosen"),
                Parameter("epochs", int, 0, "epochs of training with the bits chosen, 0 for none", 0, 10_000),
                _RATE,
            ),
        ),
        StepInfo(
            "entropy",
            "converters.compress.entropy:apply",
            "writes the weights as a Huffman-coded file beside the variant; the model stays as it is",
            "Han et al., arXiv:1510.00149; canonical codes: Schwartz and Kallick, CACM 7(3), 1964",
            "prune(0.9) > cluster(16) > entropy",
            (),
        ),
    )
}  # fmt: skip
