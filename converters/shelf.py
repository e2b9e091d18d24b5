"""Where finished things go: variant folders into the output, all at once or not at all; and everything into the cache.

Used by the pipeline and its scheduler. Light: keys are made of package metadata, no toolchain is imported.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import shutil
import tempfile
import uuid
from importlib import metadata
from pathlib import Path

from converters.base_model import BaseModel
from converters.cache import Cache, key_of, link_or_copy
from converters.errors import ToolError
from converters.export.base import PART_FILES, REFERENCE, SOURCE_SCHEMA, Workshop
from converters.jobs import ConversionRequest
from converters.recipe import Recipe
from converters.support import toolchain_of
from converters.transfer import write_dataset
from converters.variant import MANIFEST_NAME, MANIFEST_SCHEMA, ManifestError, load_variant, save_manifest

_WORK_PREFIX = ".work-"


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions. Raises metadata.PackageNotFoundError, whose `name` says which is missing."""
    return {name: _version(name) for name in packages}


@functools.cache
def _version(package: str) -> str:
    return metadata.version(package)


class Shelf:
    """The output folder, the cache and the work folder of one conversion."""

    def __init__(self, request: ConversionRequest, base: BaseModel, workshop: Workshop) -> None:
        self._request = request
        self._base = base
        self._workshop = workshop
        self._cache = None if request.cache is None else Cache(request.cache)
        request.out.mkdir(parents=True, exist_ok=True)
        _sweep(request.out)
        self.work = Path(tempfile.mkdtemp(prefix=f"{_WORK_PREFIX}{os.getpid()}-", dir=request.out.resolve()))
        self.chain: str | None = None
        self.source = self.work / "source"
        self.source.mkdir()

    def of_chain(self, key: str) -> Shelf:
        """The same shelf for what is exported from a model that compression made; `key` is the chain's address."""
        shelf = copy.copy(self)
        shelf.chain = key
        shelf.source = self.work / f"source-{key}"
        shelf.source.mkdir(exist_ok=True)
        return shelf

    def dataset_folder(self) -> Path | None:
        """The dataset as files for the workers, written when first asked for. Raises OSError."""
        if self._request.dataset is None:
            return None
        folder = self.work / "dataset"
        if not folder.is_dir():
            write_dataset(self._request.dataset, folder)
        return folder

    def close(self, *, keep_logs: bool) -> Path | None:
        """Remove the work folder; with `keep_logs` the tools' logs stay in `logs` of the output, which is returned."""
        logs = None
        if keep_logs:
            logs = self._request.out / "logs"
            logs.mkdir(exist_ok=True)
            for log in self.work.glob("*.log"):
                log.replace(logs / log.name)
        shutil.rmtree(self.work, ignore_errors=True)
        return logs

    def new_folder(self) -> Path:
        """An empty folder beside the final ones, so that a rename brings it there."""
        folder = self.work / uuid.uuid4().hex
        folder.mkdir()
        return folder

    # Keys

    def _base_key(self) -> dict[str, str]:
        chain = {} if self.chain is None else {"chain": self.chain}
        ledger = {"ledger": "yes"} if self._request.counts else {}
        return {"base": self._base.sha256, **chain, **ledger}

    def _data_key(self) -> dict[str, str | int | None]:
        dataset = self._request.dataset
        if dataset is None:
            return {"random": self._request.seed}
        return {"rows": dataset.calibration_sha256 if dataset.calibration_rows else dataset.sha256}

    def _variant_key(self, recipe: Recipe) -> str:
        info = self._workshop.toolchains[toolchain_of(recipe)]
        return key_of(
            {
                "manifest": MANIFEST_SCHEMA,
                **self._base_key(),
                "recipe": recipe.to_dict(),
                "data": self._data_key(),
                "seed": self._request.seed,
                "versions": versions_of(info.packages),
                "toolchain": info.target,
            }
        )

    def _part_key(self, part: str) -> str:
        data = (
            {"test": self._request.dataset.sha256} if part == REFERENCE and self._request.dataset else self._data_key()
        )
        return key_of(
            {
                "source": SOURCE_SCHEMA,
                **self._base_key(),
                "part": part,
                "data": data,
                "seed": self._request.seed,
                "versions": versions_of(self._workshop.preparation_packages),
                "preparation": self._workshop.preparation,
            }
        )

    # Variants

    def variant_from_cache(self, recipe: Recipe) -> Path | None:
        """Publish a cached variant under this base's name; None when there is none. Raises OSError, ToolError."""
        if self._cache is None:
            return None
        folder = self.new_folder()
        if not self._cache.get("variant", self._variant_key(recipe), folder):
            return None
        try:
            manifest = load_variant(folder, verify=False).manifest
        except ManifestError:
            return None  # of an older schema, then: it is made again
        dataset = self._request.dataset
        renamed = dataclasses.replace(
            manifest,
            name=recipe.variant_name(self._base.name),
            base=self._base.name,
            dataset_sha256=None if dataset is None else dataset.sha256,
        )
        if renamed != manifest:
            save_manifest(folder, renamed)
        return self.publish(recipe, folder)

    def keep_variant(self, recipe: Recipe, folder: Path) -> None:
        """Cache a published variant. Raises OSError."""
        if self._cache is not None:
            self._cache.put("variant", self._variant_key(recipe), folder, [path.name for path in folder.iterdir()])

    def publish(self, recipe: Recipe, folder: Path) -> Path:
        """Move a complete variant folder to its place; one that was there is replaced, anything else never.

        Raises OSError, ToolError.
        """
        final = self._request.out / recipe.variant_name(self._base.name)
        if final.exists() or final.is_symlink():
            if not (final / MANIFEST_NAME).is_file():
                raise ToolError(
                    f"{final} is in the way and is no variant", remedy="move it, or choose another output folder"
                )
            final.rename(self.work / f"old-{uuid.uuid4().hex}")
        folder.rename(final)
        return final

    # Parts of the source, and the base's answers

    @property
    def reference(self) -> Path:
        """Where the base's answers on all test rows go."""
        return self._request.out / f"{self._base.name}.{REFERENCE}"

    def part_from_cache(self, part: str) -> bool:
        """Bring a cached part into the source folder (the reference: into the output); False when there is none."""
        if self._cache is None:
            return False
        if part != REFERENCE:
            return self._cache.get("source", self._part_key(part), self.source)
        folder = self.new_folder()
        if not self._cache.get("reference", self._part_key(part), folder):
            return False
        (folder / REFERENCE).replace(self.reference)
        return True

    def keep_part(self, part: str) -> None:
        """Cache a part that was just made; publish the reference. Raises OSError."""
        if part != REFERENCE:
            if self._cache is not None:
                self._cache.put("source", self._part_key(part), self.source, PART_FILES[part])
            return
        if self._cache is not None:
            self._cache.put("reference", self._part_key(part), self.work, [REFERENCE])
        draft = self.work / f"{REFERENCE}.out"
        link_or_copy(self.work / REFERENCE, draft)
        draft.replace(self.reference)


def _sweep(out: Path) -> None:
    """Remove work folders that a killed run left behind."""
    for folder in out.glob(f"{_WORK_PREFIX}*"):
        pid = folder.name.removeprefix(_WORK_PREFIX).partition("-")[0]
        if pid.isdecimal() and not _is_running(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
