"""Who proposes the next candidate: samplers by name, each made where it is asked for, so that no library is imported before.

Over `base` (the interface) and one module per kind. With several objectives, `tpe` and `nsga2` look for the whole front; `gp` and
`tensor_train` turn them into one figure (`scalar`), with other weights for each proposal and with equal ones; `grid` and `random` do not ask.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from converters.errors import ConversionInputError
from converters.recipe import hint
from converters.search.samplers.base import Sampler, Task

__all__ = ["SAMPLERS", "Sampler", "Task", "make_sampler"]


@dataclass(frozen=True, slots=True)
class Factory:
    """Makes a sampler. `target`: "module:class" of this package. `summary`: what it does; `paper`: where it comes from."""

    target: str
    summary: str
    paper: str

    def __call__(self, task: Task) -> Sampler:
        """The sampler of that task. Raises ConversionInputError where the library that it needs is not installed."""
        module, _, name = self.target.partition(":")
        try:
            made = cast("Callable[[Task], Sampler]", getattr(importlib.import_module(f"{__name__}.{module}"), name))
        except ImportError as error:
            raise ConversionInputError(
                f"this sampler needs a package that is not installed: {error.name or error}",
                remedy="install the extra: pip install 'ondevice-harness[search]'",
            ) from error
        return made(task)


SAMPLERS: dict[str, Factory] = {
    "grid": Factory(
        "simple:Grid",
        "evenly spread values of every parameter, all combinations, in a random order",
        "none",
    ),
    "random": Factory("simple:Random", "draws", "Bergstra and Bengio, JMLR 13, 2012"),
    "tpe": Factory(
        "library:Tpe",
        "densities of the better and of the other trials, by Optuna",
        "Bergstra et al., NIPS 2011; Watanabe, arXiv:2304.11127",
    ),
    "gp": Factory(
        "gaussian:GaussianProcess",
        "a Gaussian process and the improvement it expects, by scikit-learn",
        "Jones et al., 1998, doi:10.1023/A:1008306431147; constraints: Gardner et al., ICML 2014; objectives: Knowles, "
        "2006, doi:10.1109/TEVC.2005.851274",
    ),
    "nsga2": Factory(
        "library:Nsga2",
        "a population that is crossed and sorted by fronts, by Optuna",
        "Deb et al., 2002, doi:10.1109/4235.996017",
    ),
    "tensor_train": Factory(
        "tensor_train:TensorTrain",
        "cross approximation of the tensor of all values in low rank, by ttopt",
        "Sozykin et al., arXiv:2205.00293",
    ),
}


def make_sampler(name: str, task: Task) -> Sampler:
    """The sampler of that name. Raises ConversionInputError for a name that there is not, and for a library that is not installed."""
    factory = SAMPLERS.get(name)
    if factory is None:
        raise ConversionInputError(
            f"unknown sampler {name!r}{hint(name, SAMPLERS)}", remedy=f"there are {', '.join(SAMPLERS)}"
        )
    return factory(task)
