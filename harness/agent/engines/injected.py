"""A slowdown put into a real engine on purpose: after each invocation the CPU spins on for a share of what it took.

This is how the harness is tested for what it claims to find: a difference of known size, drift of known shape, in a real
engine's noise. Asked for by the job's option `inject`, which every engine understands:

    slowdown   {model id: share}: 0.03 makes that model 3 % slower
    ramp       {"share": f, "seconds": s}: all models, from nothing at the origin to f after s seconds, and f from then on
    step       {"share": f, "after_s": s}: all models, f from s seconds after the origin on
    only       [model ids]: ramp and step hit these models alone, as when one variant drifts and not the device
    from_ns    the origin, on the device's monotonic clock; without it, the start of each agent process

A model's time becomes its own times (1 + its slowdown) × (1 + ramp) × (1 + step). ALL models of such a job are wrapped, also
those that are not slowed, so that what the wrapper itself costs is the same for all. It is never silent: the facts of
every load say what was injected ("injected"), and such a row is of grade C at best.
Standard library only; nothing is changed where the option is absent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..channel import AgentError
from ..protocol import Tensor
from .base import Session

OPTION = "inject"
_ALL_SPIN_NS = 3_000
_STARTED_NS = time.perf_counter_ns()
_KEYS = {"slowdown": None, "ramp": {"share", "seconds"}, "step": {"share", "after_s"}, "only": None, "from_ns": None}


@dataclass(frozen=True, slots=True)
class Injection:
    """What is injected into one model; `from_ns` is the origin of ramp and step on the monotonic clock."""

    slowdown: float = 0.0
    ramp: float = 0.0
    ramp_s: float = 0.0
    step: float = 0.0
    step_s: float = 0.0
    from_ns: int = 0

    def share(self, now_ns: int) -> float:
        """How much longer an inference takes that ended at `now_ns`, as a share of what it took."""
        passed_s = (now_ns - self.from_ns) / 1e9
        if self.ramp_s > 0.0:
            ramp = self.ramp * min(max(passed_s / self.ramp_s, 0.0), 1.0)
        else:
            ramp = self.ramp if passed_s >= 0.0 else 0.0
        step = self.step if passed_s >= self.step_s else 0.0
        return (1.0 + self.slowdown) * (1.0 + ramp) * (1.0 + step) - 1.0

    @property
    def words(self) -> str:
        """For the record."""
        parts = [f"{self.slowdown:+.3%} always"]
        if self.ramp:
            parts.append(f"{self.ramp:+.3%} growing over {self.ramp_s:g} s")
        if self.step:
            parts.append(f"{self.step:+.3%} from {self.step_s:g} s on")
        return ", ".join(parts)


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0.0:
        raise AgentError("job", f"{OPTION}: {what} is {value!r}, not a number of 0 or more", name="ValueError")
    return float(value)


def injection(options: Mapping[str, Any], model: str) -> Injection | None:
    """What the job's options inject into that model; None where they inject nothing at all.

    Raises AgentError of kind "job" for what is not a known setting: nothing half understood is ever measured.
    """
    asked = options.get(OPTION)
    if asked is None:
        return None
    if not isinstance(asked, Mapping) or not set(asked) <= set(_KEYS):
        raise AgentError("job", f"{OPTION}: {asked!r} is no mapping with {', '.join(_KEYS)}", name="ValueError")
    for key in ("ramp", "step"):
        found = asked.get(key)
        if found is not None and (not isinstance(found, Mapping) or set(found) != _KEYS[key]):
            wanted = " and ".join(sorted(_KEYS[key] or ()))
            raise AgentError("job", f"{OPTION}: {key} is {found!r}, no mapping with {wanted}", name="ValueError")
    ramp, step = asked.get("ramp") or {}, asked.get("step") or {}
    only = asked.get("only")
    listed = isinstance(only, Sequence) and not isinstance(only, str) and all(isinstance(name, str) for name in only)
    if only is not None and not listed:
        raise AgentError("job", f"{OPTION}: only is {only!r}, no list of models", name="ValueError")
    if only is not None and model not in only:
        ramp, step = {}, {}
    slowdowns = asked.get("slowdown") or {}
    if not isinstance(slowdowns, Mapping):
        raise AgentError("job", f"{OPTION}: slowdown is {slowdowns!r}, no mapping of models", name="ValueError")
    origin = asked.get("from_ns")
    return Injection(
        slowdown=_number(slowdowns.get(model, 0.0), f"slowdown of {model}"),
        ramp=_number(ramp.get("share", 0.0), "share of the ramp"),
        ramp_s=_number(ramp.get("seconds", 0.0), "seconds of the ramp"),
        step=_number(step.get("share", 0.0), "share of the step"),
        step_s=_number(step.get("after_s", 0.0), "after_s of the step"),
        from_ns=_STARTED_NS if origin is None else int(_number(origin, "from_ns")),
    )


def slowed(invoke: Callable[[], object], what: Injection) -> Callable[[], None]:
    """An `invoke` that takes longer by the injected share. It burns CPU, as slower kernels would: it does not sleep.

    All spin for a moment, also those that are not slowed: right after an inference Python's own code is cold in the caches, and
    that cost must not vanish into the slowdown of one and stay visible in the other.
    """
    now = time.perf_counter_ns
    constant = what.slowdown

    def always() -> None:
        started = now()
        invoke()
        ended = now()
        until = _ALL_SPIN_NS + (ended - started + _ALL_SPIN_NS) * constant + now()
        while now() < until:
            pass

    def by_the_clock() -> None:
        started = now()
        invoke()
        ended = now()
        until = _ALL_SPIN_NS + (ended - started + _ALL_SPIN_NS) * what.share(ended) + now()
        while now() < until:
            pass

    return by_the_clock if what.ramp or what.step else always


class InjectedSession:
    """An engine's session, slowed down on purpose; all else is the engine's own (see base.Session)."""

    def __init__(self, session: Session, what: Injection) -> None:
        self._session = session
        self._what = what
        self.cpu_clock = session.cpu_clock
        self.invoke: Callable[[], object] = slowed(session.invoke, what)

    def tensors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """See base.Session."""
        return self._session.tensors()

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Session."""
        self._session.bind(inputs)

    def outputs(self) -> list[NDArray[Any]]:
        """See base.Session."""
        return self._session.outputs()

    def facts(self, *, deep: bool) -> dict[str, Any]:
        """See base.Session; "injected" says what was done to it."""
        return {**self._session.facts(deep=deep), "injected": self._what.words}


def wrapped(session: Session, options: Mapping[str, Any], model: str) -> Session:
    """The session, slowed down if the job asks for it. Raises AgentError of kind "job"."""
    what = injection(options, model)
    return session if what is None else InjectedSession(session, what)
