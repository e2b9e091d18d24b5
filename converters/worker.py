"""The process in which one toolchain lives for a whole matrix: `python -m converters.worker CONFIG`.

Jobs come in on stdin as JSON lines, answers go out on a file descriptor of their own, because tools print what they like
on stdout and stderr (both are a log file here). `converters.worker_process` is the other end. CONFIG is JSON::

    {"result_fd": 5, "toolchain": "module:Class", "preparation": "module:Class", "checker": "module:function",
     "ledger": "module:function", "compressor": "module:function", "preimports": ["tensorflow"]}

First answer: `{"ready": true}`. A job is `{"do": "part", …}`, `{"do": "export", …}` or `{"do": "compress", …}`; its answer
`{"ok": true}` or `{"ok": false, "class": …, "message": …, "remedy": …, "kind": "input" | "refused" | "tool" | "disk" |
"missing"}`. Before the answer may come lines `{"say": "…"}` that tell how far it is.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.errors import describe_error
from converters.export.base import Toolchain, load_source
from converters.ledger import gzip_size_bytes, size_bytes
from converters.lineage import chain_fields, ledger_fields
from converters.recipe_words import recipe_from_dict
from converters.variant import Manifest, save_manifest, sha256_file

_PARENT_POLL_S = 0.5


def resolve(target: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _die_with_parent() -> None:
    """End when the pipeline's process has gone: nobody is left to take an answer."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


class Worker:
    """Carries out jobs, one after the other, with one toolchain instance per source.

    Only the newest source is kept in memory: the pipeline never goes back to an older one.
    """

    def __init__(self, config: dict[str, Any], say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._toolchains: dict[tuple[str, int], Toolchain] = {}
        self._preparations: dict[str, Any] = {}

    def handle(self, job: dict[str, Any]) -> None:
        """Do one job. Raises whatever the tools raise."""
        {"part": self._part, "export": self._export, "compress": self._compress}[job["do"]](job)

    def _compress(self, job: dict[str, Any]) -> None:
        resolve(self._config["compressor"])(job["request"], self._say)

    def _part(self, job: dict[str, Any]) -> None:
        folder = job["request"]["folder"]
        if folder not in self._preparations:
            self._preparations.clear()
            self._preparations[folder] = resolve(self._config["preparation"])(job["request"])
        self._preparations[folder].make(job["part"])

    def _export(self, job: dict[str, Any]) -> None:
        recipe, folder, seed = recipe_from_dict(job["recipe"]), Path(job["folder"]), int(job["seed"])
        at = (job["source"], seed)
        if at not in self._toolchains:
            self._toolchains.clear()
            self._toolchains[at] = resolve(self._config["toolchain"])(load_source(Path(job["source"])), seed)
        toolchain = self._toolchains[at]
        source = load_source(Path(job["source"]))
        exported = toolchain.export(recipe, folder)
        agreement = resolve(self._config["checker"])(
            folder / exported.artifact, recipe.format, exported.signature, source
        )
        files = [folder / name for name in exported.files]
        artifact = folder / exported.artifact
        ledger = (
            ledger_fields(source.ledger, artifact, recipe.format, resolve(self._config["ledger"]))
            if job["counts"]
            else {}
        )
        manifest = Manifest(
            name=recipe.variant_name(job["base_name"]),
            format=recipe.format,
            artifact=exported.artifact,
            files={file.name: sha256_file(file) for file in files},
            signature=exported.signature,
            size_bytes=size_bytes(files),
            size_gzip_bytes=gzip_size_bytes(files),
            base=job["base_name"],
            base_sha256=source.base_sha256,
            recipe=recipe.to_dict(),
            parameters=source.parameters,
            dataset_sha256=job["dataset_sha256"],
            preprocessing=source.preprocessing,
            tool_versions=toolchain.versions(),
            seeds={"conversion": seed},
            agreement=agreement,
            weight_dtypes=exported.weight_dtypes,
            notes=(*_data_notes(source.data, recipe.mode), *source.notes, *exported.notes),
            **chain_fields(job["steps"], folder),
            **ledger,
        )
        save_manifest(folder, manifest)


def _data_notes(data: str, mode: str) -> tuple[str, ...]:
    if data != "random":
        return ()
    what = "calibrated and checked" if mode == "static" else "checked"
    return (f"{what} on seeded random inputs, since no data were given",)


def _log_trace() -> None:
    """The full trace for the log, which a full disk must not turn into a second failure."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def main(config: dict[str, Any]) -> int:
    """Serve jobs until stdin ends."""
    faulthandler.enable()
    _die_with_parent()
    os.set_inheritable(config["result_fd"], False)
    with os.fdopen(config["result_fd"], "w", encoding="utf-8", buffering=1) as results:

        def answer(data: dict[str, Any]) -> None:
            results.write(json.dumps(data) + "\n")
            results.flush()

        try:
            for module in config["preimports"]:
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  whatever an import may raise, the pipeline is told
            _log_trace()
            answer(describe_error(error))
            return 1
        answer({"ready": True})
        worker = Worker(config, lambda text: answer({"say": text}))
        for line in sys.stdin:
            try:
                worker.handle(json.loads(line))
                answer({"ok": True})
            except Exception as error:  # noqa: BLE001  a tool's failure is an answer; its trace stays in the log
                _log_trace()
                answer(describe_error(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
