"""Parquet files and pictures, turned once into shards: files .npy in a cache directory, which workers then read.

A conversion has a directory, named by a digest of what its files are (paths, sizes, times of the last change) and of
how they are read. It gets its name when it is complete, so that no half of one is ever read. The shards do not depend
on how many processes write them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import ModuleError
from actors.limits import MAX_CONVERTED_FILES
from actors.messaging.stored_rows import file_version, is_url, open_url
from actors.types import Array
from runner.cluster.signals import before_exit
from runner.data.errors import DataError
from runner.data.images import IMAGE_SUFFIXES, ImageOptions, image_blocks, read_image
from runner.data.parquet import EXTRA, Layout, MissingIntegersError, parquet_blocks, plan_parquet
from runner.data.shard_cache import ShardCache, cache_at, create_shard
from runner.report.printable import format_bytes

SHARD_BYTES = 64 << 20
"""Size of a shard; what fits into one is converted by this process."""

SHARD_FILES = 25_000
"""Pictures in a shard."""

MAX_SHARDS = 10_000
REPORT_SECONDS = 30.0
_FORMAT = 1
_MISSING = "integers are missing"
_NPY, PARQUET, IMAGES = ".npy", "Parquet", "pictures"
_KINDS = {".npy": _NPY, ".parquet": PARQUET, ".pq": PARQUET, **dict.fromkeys(IMAGE_SUFFIXES, IMAGES)}
_NAMES = {_NPY: "files .npy", PARQUET: "Parquet files", IMAGES: "pictures"}


def _ignore(_line: str) -> None:
    """Take no notice."""


@dataclass(frozen=True)
class Converter:
    """Where files are converted, and who is told.

    Parameters
    ----------
    address : str, optional
        Of the Ray cluster; by default one is started on this machine, if there is more than one shard to write.
    report : callable
        Takes a sentence for the user.
    """

    address: str | None = None
    report: Callable[[str], None] = _ignore


@dataclass(frozen=True)
class ShardOptions:
    """How rows are made of files, and where the shards are kept.

    Parameters
    ----------
    columns : tuple of str, optional
        Columns of Parquet files that make a row, in this order; by default all.
    images : ImageOptions
    cache : str, optional
        Directory or URL; by default in the user's cache directory.
    """

    columns: tuple[str, ...] | None = None
    images: ImageOptions = field(default_factory=ImageOptions)
    cache: str | None = None


@dataclass(frozen=True)
class Shards:
    """Files .npy that have the rows of other files.

    Attributes
    ----------
    locations : tuple of str
        Paths or URLs, in the order of the rows.
    where : str
        What they were made of, for error messages.
    notes : tuple of str
        What was done, for the user.
    """

    locations: tuple[str, ...]
    where: str
    notes: tuple[str, ...]


def find_shards(
    given: str | Path | Sequence[str | Path],
    root: str | Path,
    options: ShardOptions,
    converter: Converter | None = None,
) -> Shards | None:
    """Return the shards of Parquet files or pictures, converting these if that was not done before.

    Parameters
    ----------
    given : str, Path or sequence of these
        Files, directories or URLs. Files of a directory are in the order of their names, pictures with those of its
        folders.
    root : str or Path
        The directory of relative paths.
    options : ShardOptions
    converter : Converter, optional

    Returns
    -------
    Shards or None
        None if there are other files than these.

    Raises
    ------
    DataError
        If a file is damaged, holds other things than rows of numbers, or does not fit the others; if files of several
        kinds are mixed; or if there is not enough space for the shards.
    """
    converter = converter or Converter()
    kind, locations, notes = _find_files(given, root)
    _check_options(kind, options)
    if kind not in (PARQUET, IMAGES):
        return None
    versions = _versions(locations)
    what = f"{len(locations):,} {_NAMES[kind]}" if len(locations) > 1 else locations[0]
    cache = cache_at(options.cache, _digest(kind, versions, options))
    if (index := cache.read_index()) is not None:
        converter.report(f"{what}: converted before, so rows are read from {cache.location}")
    else:
        index = _convert(kind, options, cache, converter, what, versions)
    where = what if len(locations) == 1 else f"{what} ({_describe_given(given)})"
    shards = tuple(cache.at(name) for name, _ in index["shards"])
    notes = (*notes, *index["notes"], f"{_NAMES[kind]} as converted in {cache.location}")
    return Shards(shards, where, notes)


def digest_of(given: str | Path | Sequence[str | Path], root: str | Path, options: ShardOptions) -> str:
    """Return the name of the directory of shards of Parquet files or pictures; empty for other files.

    Raises
    ------
    DataError
        If a file is not there, or files of several kinds are mixed.
    """
    kind, locations, _ = _find_files(given, root)
    return _digest(kind, _versions(locations), options) if kind in (PARQUET, IMAGES) else ""


def kind_of(given: str | Path, root: str | Path) -> str:
    """Return :data:`PARQUET` or :data:`IMAGES` for a file, a directory or a URL of these; empty for another one."""
    kind = _find_files(given, root)[0]
    return kind if kind in (PARQUET, IMAGES) else ""


def _check_options(kind: str, options: ShardOptions) -> None:
    """Refuse options that the files do not have."""
    odd = [("columns", options.columns is not None, PARQUET)]
    odd += [("image_size", options.images.size is not None, IMAGES), ("grey", options.images.grey, IMAGES)]
    for key, is_set, own in odd:
        if is_set and kind != own:
            raise DataError(f"data.{key}: goes with {_NAMES[own]}, and data.observations are none; leave it out")
    if options.cache is not None and kind not in (PARQUET, IMAGES):
        raise DataError("data.cache: goes with Parquet files and pictures, which are converted; leave it out")


def _describe_given(given: str | Path | Sequence[str | Path]) -> str:
    several = [str(given)] if isinstance(given, str | Path) else [str(each) for each in given]
    return several[0] if len(several) == 1 else f"{several[0]}, …"


# --- which files ----------------------------------------------------------------------------------------------------


def _kind(name: str) -> str:
    """Return the kind of a file by its suffix; empty for another one."""
    suffix = Path(name).suffix.lower()
    return _KINDS.get(suffix, "")


def _listed_kind(name: str) -> str:
    """Return the kind of a file of a directory; empty for hidden ones, and for what Spark writes beside its files."""
    kind, file = _kind(name), Path(name).name
    hidden = kind != _NPY and (file.startswith(".") or (kind == PARQUET and file.startswith("_")))
    return "" if hidden else kind


def _find_files(given: str | Path | Sequence[str | Path], root: str | Path) -> tuple[str, list[str], tuple[str, ...]]:
    """Return the kind of some files (empty if there is none of those known here), the files in order, and notes."""
    found: list[tuple[str, str]] = []
    others = 0
    for each in [given] if isinstance(given, str | Path) else given:
        text = str(each) if is_url(str(each)) else str((Path(root) / _expanded(each)).absolute())
        if is_url(text) and not _kind(text):
            names = _url_names(text)
        elif not is_url(text) and _is_directory(text):
            names = _directory_names(Path(text))
        else:
            found.append((_kind(text), text))
            continue
        listed = [(_listed_kind(name), name) for name in names]
        found += [(kind, name) for kind, name in listed if kind]
        others += sum(not kind and not Path(name).name.startswith((".", "_")) for kind, name in listed)
    kinds: dict[str, str] = {}
    for kind, location in found:
        kinds.setdefault(kind, location)
    if len(kinds) > 1 and any(kind in (PARQUET, IMAGES) for kind in kinds):
        (first, one), (second, other) = list(kinds.items())[:2]
        first, second = (_NAMES.get(kind, "files of another kind") for kind in (first, second))
        raise DataError(
            f"data.observations: mixes {first} ({one}) with {second} ({other}); give files of one kind, in a directory "
            "of their own"
        )
    kind = next(iter(kinds), "")
    notes = _order_notes([location for _, location in found]) if kind in (PARQUET, IMAGES) else ()
    if others and kind in (PARQUET, IMAGES):
        notes += (f"{others:,} other file{'s' * (others > 1)} there {'are' if others > 1 else 'is'} left out",)
    return kind, [location for _, location in found], notes


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _is_directory(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False  # what it is instead is said where files are read


def _directory_names(path: Path) -> list[str]:
    """Return the paths of a directory's files in order, with those of its folders unless it has .npy or Parquet."""
    try:
        names = sorted(each.name for each in path.iterdir())
        if {_NPY, PARQUET} & set(map(_listed_kind, names)):
            return [str(path / name) for name in names if _listed_kind(name) or not (path / name).is_dir()]
        found: list[Path] = []
        for above, folders, files in os.walk(path):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            found += [Path(above, file) for file in files]
        return [str(each) for each in sorted(found, key=lambda each: each.parts)]
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror}); correct the permissions") from None


def _url_names(url: str) -> list[str]:
    """Return the URLs below one; none if it cannot be listed, which is said where files are read."""
    try:
        files, path = open_url(url)
        names = sorted(map(str, files.ls(path, detail=False)))
        if not {_NPY, PARQUET} & set(map(_listed_kind, names)):
            names = sorted(map(str, files.find(path)), key=lambda name: name.split("/"))
        return [str(files.unstrip_protocol(name)) for name in names]
    except Exception:  # of any package
        return []


def _order_notes(locations: Sequence[str]) -> tuple[str, ...]:
    """Return a note if numbers in names would have another order: it matters where rows are a sequence."""
    for before, after in pairwise(locations):
        if before < after and _natural(before) > _natural(after):
            return (f"sorted by name as text: {Path(before).name} before {Path(after).name}",)
    return ()


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"[0-9]{1,300}|[^0-9]+", name)]


def _versions(locations: Sequence[str]) -> list[tuple[str, int, str]]:
    if len(locations) > MAX_CONVERTED_FILES:
        raise DataError(f"data.observations: are more than {MAX_CONVERTED_FILES:,} files; join some")
    return [_version(location) for location in locations]


def _version(location: str) -> tuple[str, int, str]:
    try:
        return (location, *file_version(location))
    except (ModuleError, FileNotFoundError):
        if is_url(location):
            raise DataError(f"{location}: cannot be read; correct the URL") from None
        raise DataError(f"{location}: there is no such file, or it cannot be read; correct the path") from None


def _digest(kind: str, versions: Iterable[tuple[str, int, str]], options: ShardOptions) -> str:
    """Return what names a conversion: a digest of the files and of how they are read."""
    digest = hashlib.sha256(json.dumps([_FORMAT, kind, options.columns, asdict(options.images)]).encode())
    for version in versions:
        digest.update(json.dumps(version).encode())
    return digest.hexdigest()[:32]


# --- what becomes of them -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The shards to write: for each, what a process needs to know, as JSON; and notes."""

    jobs: list[dict[str, Any]]
    row_bytes: int
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(job["rows"] * self.row_bytes + 128 for job in self.jobs)


def _plan(kind: str, locations: Sequence[str], options: ShardOptions, *, missing: bool = False) -> _Plan:
    """Return which shards are to be written, without reading the rows; `missing` is of :func:`plan_parquet`."""
    notes: tuple[str, ...] = ()
    pieces: list[tuple[Any, int]]
    if kind == PARQUET:
        layout, groups, notes = plan_parquet(locations, options.columns, missing=missing)
        common: dict[str, Any] = {"kind": kind, "dtype": layout.dtype, "row_shape": layout.row_shape}
        common["columns"] = layout.columns
        pieces, most = [((location, group), rows) for location, group, rows in groups], sum(row[2] for row in groups)
    else:
        values, mode = read_image(locations[0], options.images)
        dtype = values.dtype.newbyteorder("<").str
        common = {"kind": kind, "dtype": dtype, "row_shape": values.shape, "mode": mode, "first": locations[0]}
        common["options"] = asdict(options.images)
        pieces, most = [(location, 1) for location in locations], SHARD_FILES
    row_bytes = np.dtype(common["dtype"]).itemsize * math.prod(common["row_shape"])
    total = sum(rows for _, rows in pieces)
    rows_each = max(1, min(SHARD_BYTES // row_bytes, most), -(-total // MAX_SHARDS))
    jobs: list[dict[str, Any]] = []
    for piece, rows in pieces:
        if not jobs or jobs[-1]["rows"] + rows > rows_each:
            jobs.append({**common, "number": len(jobs), "pieces": [], "rows": 0})
        jobs[-1]["pieces"].append(piece)
        jobs[-1]["rows"] += rows
    return _Plan(jobs, row_bytes, notes)


def write_shard(job: dict[str, Any]) -> str:
    """Write one shard; return what is wrong with the files, empty if nothing is.

    Parameters
    ----------
    job : dict
        From a plan, with the ``target``; it may have been JSON.
    """
    try:
        with create_shard(job["target"]) as stream:
            dtype, shape = np.dtype(job["dtype"]), (job["rows"], *job["row_shape"])
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            count = 0
            for block in _blocks(job):
                stream.write(np.ascontiguousarray(block).data)
                count += len(block)
            if count != job["rows"]:
                location, *_ = job["pieces"][0]
                raise DataError(f"{location}: is damaged, it has other rows than it says; write it again")
    except MissingIntegersError:
        return _MISSING
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{job['target']}: cannot be written ({error.strerror or error}); free some space, or set data.cache"
    return ""


def write_shard_of(row: dict[str, Any]) -> dict[str, Any]:
    """Write the shard of one row of a Ray data set, in a task of Ray."""
    return {"problem": write_shard(json.loads(row["job"]))}


def _blocks(job: dict[str, Any]) -> Iterator[Array]:
    if job["kind"] == PARQUET:
        columns = tuple((name, tuple(shape)) for name, shape in job["columns"])
        layout = Layout(columns, job["dtype"], tuple(job["row_shape"]))
        return parquet_blocks(layout, [(location, group) for location, group in job["pieces"]])
    size = job["options"]["size"]
    options = ImageOptions(None if size is None else (size[0], size[1]), job["options"]["grey"])
    shape = tuple(job["row_shape"])
    return image_blocks(
        job["pieces"], options, dtype=job["dtype"], row_shape=shape, mode=job["mode"], first=job["first"]
    )


def _convert(
    kind: str,
    options: ShardOptions,
    cache: ShardCache,
    converter: Converter,
    what: str,
    versions: Sequence[tuple[str, int, str]],
) -> dict[str, Any]:
    """Write all shards; return the index of the conversion."""
    locations = [location for location, _, _ in versions]
    plan = _plan(kind, locations, options)
    if len(plan.jobs) > 1:
        _check_ray_data()
    cache.prepare(plan.size)
    with cache.locked(converter.report):
        if (index := cache.read_index()) is not None:  # another process has converted them meanwhile
            return index
        converter.report(f"{what}: converting once, into {cache.location} ({format_bytes(plan.size)})")
        started = time.monotonic()
        try:
            index = _write(plan, cache, converter, versions)
        except MissingIntegersError:
            plan = _plan(kind, locations, options, missing=True)
            cache.prepare(plan.size)
            converter.report(f"{what}: some integers are missing, so all become floats ({format_bytes(plan.size)})")
            index = _write(plan, cache, converter, versions)
    converter.report(f"{what}: converted in {time.monotonic() - started:.1f} s")
    return index


def _write(
    plan: _Plan, cache: ShardCache, converter: Converter, versions: Sequence[tuple[str, int, str]]
) -> dict[str, Any]:
    """Write all shards of a plan; leave nothing behind if one cannot be written."""
    names = [f"part-{job['number']:05d}.npy" for job in plan.jobs]
    cache.begin()
    try:
        with before_exit(cache.abandon):
            jobs = [{**job, "target": cache.target(name)} for job, name in zip(plan.jobs, names, strict=True)]
            _write_all(jobs, converter)
            for version in versions:
                if _version(version[0]) != version:
                    raise DataError(f"{version[0]}: has changed while it was converted; run the command again")
            return cache.finish(names, plan.notes)
    except BaseException:
        cache.abandon()
        raise


def _check_ray_data() -> None:
    """Raise DataError if a package that Ray Data needs is not installed, before anything is written."""
    import importlib.util

    for package in ("pyarrow", "pandas"):
        if importlib.util.find_spec(package) is None:
            raise DataError(f"many files are converted by Ray Data, which needs {package}; run: {EXTRA}")


def _write_all(jobs: list[dict[str, Any]], converter: Converter) -> None:
    """Write the shards, here or by Ray; raise DataError for the first one, in their order, that cannot be written."""
    with ExitStack() as stack:
        if len(jobs) == 1:
            problems: Generator[str, None, None] = (write_shard(job) for job in jobs)
        else:
            from runner.data.shards_by_ray import write_shards  # Ray is slow to import, and not needed for few files

            problems = write_shards(jobs, converter.address)
        stack.callback(problems.close)  # which ends the cluster
        told = time.monotonic()
        for number, problem in enumerate(problems, 1):
            if problem:
                raise MissingIntegersError(problem) if problem == _MISSING else DataError(problem)
            if time.monotonic() - told > REPORT_SECONDS:
                converter.report(f"converted {number:,} of {len(jobs):,} parts")
                told = time.monotonic()
