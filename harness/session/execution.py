"""One job on one device: start the agent, listen to it, and say how it ended. Knows nothing of sessions or of the store.

A dead, silent or babbling agent becomes a Failure with the model at fault where that can be told; a lost connection stays a
TransportError, for the runner may try again. What was heard until then is kept in the Transcript in any case.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.agent.protocol import Job, ProtocolError, decode_message, model_at_work
from harness.devices.transport import Process
from harness.records import Failure

# After `done` the agent leaves at once; one that does not is ended.
END_TIMEOUT_S = 10.0
HANG = "Hang"
# How much slower than its first inference a model may run before silence means a hang.
_PATIENCE = 5.0


@dataclass(slots=True)
class Transcript:
    """What the agent said, in order, and what became of the run: `failure` (the whole run), `failed` (single models)."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    failure: Failure | None = None
    failed: dict[str, Failure] = field(default_factory=dict)
    done: bool = False

    def first(self, kind: str) -> dict[str, Any] | None:
        """The first message of a type."""
        return next((message for message in self.messages if message["type"] == kind), None)

    def environment(self) -> dict[str, Any]:
        """What was set and read back, and the contention counters again at the end, under "after"."""
        hello, done = self.first("hello"), self.first("done")
        environment = {} if hello is None else dict(hello["environment"])
        if done is not None:
            environment["after"] = done["environment_after"]
        return environment

    def sensors(self) -> tuple[dict[str, Any], ...]:
        """Readings taken during the run, with the device's clock."""
        return tuple(
            {"t_ns": message["t_ns"], "name": message["name"], "values": message["values"]}
            for message in self.messages
            if message["type"] == "sensor" and message["name"] != "stage"
        )


def listen(process: Process, job: Job, transcript: Transcript, *, hang_s: float, pace: float = 1.0) -> None:
    """Read the agent's messages until it ends, and kill it if it does not. Raises TransportError (connection lost).

    All waiting is on the host's clock; `pace`: how many of its seconds one of the device's may take.

    The caller kills the process afterwards in any case: also when this raises KeyboardInterrupt.
    """
    allowance = _Allowance(job, hang_s, pace)
    try:
        while not transcript.done:
            line = process.read_line(allowance.seconds())
            if line is None:
                break
            message = decode_message(line.decode("utf-8", "replace"))
            transcript.messages.append(message)
            allowance.heard(message)
            _note(message, job, transcript)
        process.close_stdin()
        code = process.wait(END_TIMEOUT_S)
    except TimeoutError:
        if not transcript.done:
            _fail(job, transcript, _silent(allowance.seconds()))
        return
    except ProtocolError as error:
        process.kill()
        said = _last_words(process)
        _fail(job, transcript, Failure("measurement", "ProtocolError", f"the agent broke its protocol: {error}{said}"))
        return
    if not transcript.done:
        _fail(job, transcript, _died(code, _last_words(process)))


def _note(message: Mapping[str, Any], job: Job, transcript: Transcript) -> None:
    """Take errors and the end from a message; refuse models that are not in the job."""
    kind = message["type"]
    known = {model.id for model in job.models}
    if kind in ("loaded", "memory", "warmup", "block", "outputs", "profile") and message["id"] not in known:
        raise ProtocolError(f"message {kind!r} about {message['id']!r}, which is no model of the job")
    if kind == "done":
        transcript.done = True
    elif kind == "error":
        failure = Failure("measurement", str(message["name"]), str(message["message"]), message["remedy"])
        if message["id"] in known:
            transcript.failed[message["id"]] = failure
        else:
            transcript.failure = failure


def _fail(job: Job, transcript: Transcript, failure: Failure) -> None:
    """The run ended badly: blame the model that was being worked on, or else the whole run."""
    culprit = job.models[0].id if len(job.models) == 1 else model_at_work(job, transcript.messages)
    what = _doing(transcript)
    named = Failure(
        failure.where, failure.name, f"{failure.message} ({what})" if what else failure.message, failure.remedy
    )
    if culprit is not None:
        transcript.failed[culprit] = named
    transcript.failure = named


def _doing(transcript: Transcript) -> str:
    """In words, what the agent had announced last."""
    stages = [m["values"] for m in transcript.messages if m["type"] == "sensor" and m["name"] == "stage"]
    if not stages:
        return "" if transcript.messages else "before its first message"
    return f"during {stages[-1].get('stage')}"


def _silent(seconds: float) -> Failure:
    return Failure(
        "measurement",
        HANG,
        f"the agent said nothing for {seconds:.0f} s and was killed",
        "raise 'hang_s' in the protocol if the device is that slow; else this engine cannot run this model",
    )


def _died(code: int, said: str) -> Failure:
    if code == -signal.SIGKILL:
        return Failure(
            "measurement",
            "SIGKILL",
            f"the agent was killed by SIGKILL{said}",
            "most often the kernel does that for want of memory: free some, or measure fewer variants at once",
        )
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return Failure(
            "measurement",
            name,
            f"the agent died of {name}{said}",
            "the engine crashes on this model: the file may be damaged, or the engine has a bug; try another version",
        )
    return Failure(
        "measurement",
        "AgentEnded",
        f"the agent ended with code {code} and without 'done'{said}",
        "check that 'python' in the device profile has numpy and the engine",
    )


def _last_words(process: Process) -> str:
    """The end of stderr, for a message."""
    lines = [line for line in process.stderr_tail().decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {' | '.join(lines[-6:])[-600:]}" if lines else ""


class _Allowance:
    """How long the agent may be silent now: `hang_s` beyond what the work at hand should take."""

    def __init__(self, job: Job, hang_s: float, pace: float) -> None:
        self._job = job
        self._pace = pace
        self._hang_s = hang_s
        self._inference_s = 0.0

    def heard(self, message: Mapping[str, Any]) -> None:
        """Learn how slow the models are."""
        if message["type"] == "loaded" and message["first_inference_ns"]:
            self._inference_s = max(self._inference_s, self._pace * message["first_inference_ns"] / 1e9)
        elif message["type"] == "warmup" and message["wall_ns"]:
            self._inference_s = max(self._inference_s, self._pace * max(message["wall_ns"]) / 1e9)

    def seconds(self) -> float:
        """Seconds until the next message at the latest."""
        if self._job.probe is not None and self._job.probe.outputs_path is not None:
            return self._hang_s + _PATIENCE * self._job.data.rows * self._inference_s
        if self._job.latency is not None:
            # A visit ends by itself; only the inference that is running then goes beyond.
            plan = self._job.latency
            visit = max(plan.warmup_max_s, 2 * plan.block_max_s)
            turn = 0.0 if plan.turn is None else plan.turn.wait_s
            return self._hang_s + turn + visit + _PATIENCE * self._inference_s
        if self._job.offline is not None:
            offline = self._job.offline
            # Streams that outnumber the CPUs take turns, and a first batch may be that much slower than a single inference.
            load = self._hang_s + _PATIENCE * self._inference_s * offline.batch * offline.streams
            return load + max(offline.warmup_max_s, 2 * offline.block_max_s)
        if self._job.sustained is not None:
            return self._hang_s + self._job.sustained.interval_s + _PATIENCE * self._inference_s
        if self._job.loadgen is not None:
            official = self._job.loadgen
            queries = (official.min_queries + self._job.data.rows) * self._inference_s
            return self._hang_s + _PATIENCE * (official.min_duration_s + queries)
        if self._job.energy is not None:
            energy = self._job.energy
            phase = max(energy.idle_s, energy.window_s) + 2 * energy.settle_s
            return self._hang_s + phase + _PATIENCE * self._inference_s
        if self._job.profile is not None:
            profile = self._job.profile
            return self._hang_s + (2 * profile.rounds + 2) * (profile.block_max_s + _PATIENCE * self._inference_s)
        return self._hang_s
