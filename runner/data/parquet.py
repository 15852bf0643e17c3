"""Parquet files as rows of numbers: which columns make a row, what cannot, and blocks of rows one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import ModuleError
from actors.limits import MAX_LISTED_NAMES
from actors.messaging.stored_rows import STORED_DTYPES, is_url, open_url
from actors.types import Array, BoolArray
from runner.data.errors import EXACT, DataError
from runner.data.intake import missing_in_block
from runner.report.printable import brief, printable_line, printable_reason

EXTRA = "pip install 'serket-actors[data]'"
_BLOCK_BYTES = 8 << 20
_INDEX = "__index_level_"
"""What names of columns begin with in which pandas writes the names of rows."""


class MissingIntegersError(DataError):
    """Raised where integers are missing (null), and the dtype of the rows has no NaN.

    That is seen only when they are read: Parquet's statistics may be absent, and reading damaged ones ends the process.
    """


@dataclass(frozen=True)
class Column:
    """A column of one file: the dtype of its numbers, and how many lists they are within.

    Parameters
    ----------
    name : str
    dtype : str
        Of numpy.
    depth : int
        0 for a number in each row.
    tensor : tuple of int
        The shape in which a list of numbers is to be seen, if the type of the column says one.
    """

    name: str
    dtype: str
    depth: int
    tensor: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What all files of a conversion have in common: the columns of a row, and the dtype of the rows."""

    columns: tuple[tuple[str, tuple[int, ...]], ...]
    dtype: str
    row_shape: tuple[int, ...]


def import_parquet() -> Any:
    """Return pyarrow.parquet.

    Raises
    ------
    DataError
        If it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"Parquet files need a package that is not installed ({error}); run: {EXTRA}") from None
    return pyarrow.parquet


def plan_parquet(
    locations: Sequence[str], wanted: Sequence[str] | None, *, missing: bool = False
) -> tuple[Layout, list[tuple[str, int, int]], tuple[str, ...]]:
    """Return the layout of rows, the row groups with their rows (file, group, rows), and notes.

    Parameters
    ----------
    locations : sequence of str
        Paths or URLs.
    wanted : sequence of str, optional
        The columns of a row, in their order; by default all but those that pandas marks as names of the rows.
    missing : bool
        Whether integers are missing (null) in some file, so that the dtype has to have NaN.

    Raises
    ------
    DataError
        If a file is damaged, a column is missing or holds no numbers, or files do not fit each other.
    """
    groups: list[tuple[str, int, int]] = []
    names: list[str] | None = None if wanted is None else list(wanted)
    first, notes, dtypes, depths = "", tuple[str, ...](), list[str](), dict[str, int]()
    tensors: list[tuple[int, ...]] = []
    for location in locations:
        with open_parquet(location) as file:
            if names is None:
                names, notes = _default_columns(location, file)
            found = _describe_columns(location, file, names, chosen=wanted is not None)
            counts = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        for column in found:
            if depths.setdefault(column.name, column.depth) != column.depth:
                raise DataError(
                    f"{location}: column {brief(column.name)} has numbers within {column.depth} lists, in {first} "
                    f"within {depths[column.name]}; give files that are alike"
                )
            dtypes.append(column.dtype)
            tensors.append(column.tensor)
        first = first or location
        groups += [(location, number, count) for number, count in enumerate(counts) if count]
    if not groups:
        raise DataError(f"{locations[0]}: holds no rows of numbers; give files with at least one row")
    dtype = np.result_type(*set(dtypes), *([np.float32] if missing else []))
    if dtype.kind in "iu" and dtype.itemsize == 8:
        dtype = np.dtype("f8")  # of integers, those of up to 32 bits stay on disk as they are
    lists = {name for name, depth in depths.items() if depth}
    shapes = _row_shapes(groups, lists, depths) if lists else {}
    columns = tuple((name, shapes.get(name, ())) for name in names or ())
    row_shape: tuple[int, ...] = (sum(math.prod(shape) for _, shape in columns),)
    if len(columns) == 1:  # a list of numbers, or lists of lists, keep their shape
        row_shape = tensors[0] if tensors[0] and math.prod(tensors[0]) == row_shape[0] else columns[0][1] or row_shape
    layout = Layout(columns, dtype.newbyteorder("<").str, row_shape)
    assert layout.dtype in STORED_DTYPES
    return layout, groups, notes


def _default_columns(location: str, file: Any) -> tuple[list[str], tuple[str, ...]]:
    """Return all columns but the index of a data frame, and a note that it is left out."""
    schema = file.schema_arrow
    known = (schema.pandas_metadata or {}).get("index_columns", ())
    index = {name for name in schema.names if name in known or name.startswith(_INDEX)}
    names = [name for name in schema.names if name not in index]
    if not names:
        raise DataError(f"{location}: has no columns; give files with columns of numbers")
    shown = ", ".join(sorted(brief(name) for name in index))
    return names, (f"the index {shown} is left out",) if index else ()


@contextmanager
def open_parquet(location: str) -> Iterator[Any]:
    """Open a Parquet file for a context.

    Raises
    ------
    DataError
        If it cannot be read, or is damaged, also if that is found within the context.
    """
    parquet = import_parquet()
    import pyarrow as pa

    known = (
        Exception if is_url(location) else (pa.ArrowException, OSError, ValueError)
    )  # a server's package may raise anything
    with ExitStack() as stack:
        try:
            if is_url(location):
                files, path = open_url(location)
                stream = stack.enter_context(files.open(path, "rb"))
            else:
                stream = stack.enter_context(Path(location).open("rb"))
            file = stack.enter_context(parquet.ParquetFile(stream))
            yield file
        except DataError:
            raise
        except ModuleError as error:
            raise DataError(str(error)) from None
        except known as error:
            raise _damaged(location, error) from None


def _damaged(location: str, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{location}: cannot be read ({error.strerror}); correct the path or the permissions")
    reason = printable_reason(error)
    return DataError(f"{location}: is damaged or not what its name says ({reason}); write it again")


# --- columns --------------------------------------------------------------------------------------------------------


def _describe_columns(location: str, file: Any, names: Sequence[str], *, chosen: bool) -> list[Column]:
    """Return the wanted columns of a file, or refuse what is none of numbers."""
    schema = file.schema_arrow
    for name in names:
        if (count := schema.names.count(name)) != 1:
            has = "no column" if not count else f"{count} columns"
            known = ", ".join(map(brief, schema.names[:MAX_LISTED_NAMES]))
            raise DataError(f"{location}: has {has} {brief(name)}; its columns are {known}")
    if not chosen and (more := [name for name in _default_columns(location, file)[0] if name not in names]):
        raise DataError(
            f"{location}: has a column {brief(more[0])} that the files before do not have; choose columns that all "
            "have with data.columns"
        )
    found = []
    for name in names:
        kind, depth = _value_type(schema.field(name).type)
        if (dtype := _numpy_dtype(kind)) is None:
            others = [each for each in schema.names if _numpy_dtype(_value_type(schema.field(each).type)[0])]
            remedy = f"choose columns of numbers, as with data.columns: [{', '.join(others[:MAX_LISTED_NAMES])}]"
            raise DataError(
                f"{location}: column {brief(name)} holds {_describe_type(kind)}, not numbers; "
                f"{printable_line(remedy) if others else 'give files with columns of numbers'}"
            )
        tensor = tuple(getattr(schema.field(name).type, "shape", ()))
        axes = list(getattr(schema.field(name).type, "permutation", None) or range(len(tensor)))
        if axes != sorted(axes):
            raise DataError(f"{location}: column {brief(name)} has arrays with permuted axes; write them in C order")
        found.append(Column(name, dtype.str, depth, tensor))
    return found


def _value_type(kind: Any) -> tuple[Any, int]:
    """Return the type of the values within lists, and how many lists these are."""
    import pyarrow as pa

    depth = 0
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind, depth = kind.value_type, depth + 1
        else:
            return kind, depth


def _numpy_dtype(kind: Any) -> np.dtype[Any] | None:
    """Return the dtype of a type of numbers, None for another type."""
    import pyarrow as pa

    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return dtype
    return None


def _describe_type(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = {
        "text": (pa.types.is_string, pa.types.is_large_string),
        "bytes": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary),
        "times": (pa.types.is_temporal,),
        "decimal numbers": (pa.types.is_decimal,),
        "no values": (pa.types.is_null,),
    }
    name = next((name for name, tests in checks.items() if any(test(kind) for test in tests)), "values")
    return f"{name} ({printable_line(kind, 100)})"


def _row_shapes(
    groups: Sequence[tuple[str, int, int]], lists: set[str], depths: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each column of lists, that of its first list."""
    shapes: dict[str, tuple[int, ...]] = {}
    for location, group, _ in groups:
        with open_parquet(location) as file:
            for batch in file.iter_batches(1024, row_groups=[group], columns=sorted(lists - set(shapes))):
                for name in lists - set(shapes):
                    present = _storage(batch.column(name)).drop_null()
                    if len(present):
                        shapes[name] = _shape_of(present, depths[name])
                if len(shapes) == len(lists):
                    break
        if len(shapes) == len(lists):
            return _checked_shapes(shapes, location)
    name = min(lists - set(shapes))
    raise DataError(f"{groups[0][0]}: column {brief(name)} has no values in any file; leave it out with data.columns")


def _checked_shapes(shapes: dict[str, tuple[int, ...]], location: str) -> dict[str, tuple[int, ...]]:
    for name, shape in shapes.items():
        if 0 in shape:
            raise DataError(f"{location}: column {brief(name)} holds lists without values; leave it out")
    return shapes


def _shape_of(array: Any, depth: int) -> tuple[int, ...]:
    """Return the shape of the first of some lists."""
    shape: tuple[int, ...] = ()
    for _ in range(depth):
        if not len(array):
            return (*shape, 0)
        first = _storage(array)[0].values
        if first is None:
            return (*shape, 0)
        shape, array = (*shape, len(first)), first
    return shape


def _storage(array: Any) -> Any:
    return array.storage if hasattr(array, "storage") else array


# --- rows -----------------------------------------------------------------------------------------------------------


def parquet_blocks(layout: Layout, groups: Sequence[tuple[str, int]]) -> Iterator[Array]:
    """Yield the rows of row groups (file, group) in blocks (n, …), checked as observations are.

    Raises
    ------
    DataError
        If a file is damaged, a list has another length, or a value is infinite.
    MissingIntegersError
        If the dtype is one of integers, and a value is missing.
    """
    dtype, shape = np.dtype(layout.dtype), layout.row_shape
    names = [name for name, _ in layout.columns]
    size = max(1, _BLOCK_BYTES // (math.prod(shape) * 8))
    labels = names if all(not each for _, each in layout.columns) else ()
    for location, group in groups:
        with open_parquet(location) as file:
            start = sum(file.metadata.row_group(number).num_rows for number in range(group))
            for batch in file.iter_batches(size, row_groups=[group], columns=names):
                rows = np.empty((len(batch), math.prod(shape)), dtype)
                column = 0
                for name, each in layout.columns:
                    width = math.prod(each)
                    where = _Place(location, name, start)
                    values = _numbers(batch.column(name), each, dtype, where, np.arange(len(batch)))
                    rows[:, column : column + width] = values.reshape(len(batch), width)
                    column += width
                missing_in_block(rows, location, start, columns=labels)
                yield rows.reshape(-1, *shape)
                start += len(batch)


@dataclass(frozen=True)
class _Place:
    """Where values are, for error messages: a column of a file, and the number of its first row from 0."""

    location: str
    column: str
    start: int

    def refusal(self, row: int, text: str) -> DataError:
        """Return the error that a row cannot be used."""
        return DataError(f"{self.location}, row {self.start + row + 1}: column {brief(self.column)} {text}")


def _numbers(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: _Place, rows: Array) -> Array:
    """Return the numbers of a column (n, …), NaN where they are missing; `rows` is the row of each entry."""
    import pyarrow.compute as compute

    array = _storage(array)
    if array.null_count and dtype.kind != "f":
        raise MissingIntegersError(f"{where.location}: has integers that are missing")
    present: BoolArray = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
    if not shape:
        return _scalars(array, present, dtype, where, rows)
    kept = array.filter(array.is_valid()) if not present.all() else array
    lengths = np.asarray(compute.list_value_length(kept).to_numpy(zero_copy_only=False))
    if (odd := lengths != shape[0]).any():
        row = int(rows[present][odd.argmax()])
        raise where.refusal(
            row, f"has a list of {int(lengths[odd.argmax()])} values where {shape[0]} were expected; give one length"
        )
    inner = _numbers(kept.flatten(), shape[1:], dtype, where, np.repeat(rows[present], shape[0]))
    inner = inner.reshape(len(kept), *shape)
    if present.all():
        return inner
    values = np.full((len(array), *shape), np.nan, dtype)
    values[present] = inner
    return values


def _scalars(array: Any, present: BoolArray, dtype: np.dtype[Any], where: _Place, rows: Array) -> Array:
    if not present.all():
        array = array.fill_null(array.filter(array.is_valid())[0]) if present.any() else array
    if not present.any():
        return np.full(len(array), np.nan, dtype)
    raw: Array = np.asarray(array.to_numpy(zero_copy_only=False))
    values = raw.astype(dtype)
    if raw.dtype.kind in "iu" and raw.dtype.itemsize == 8 and dtype.kind == "f":
        large = np.asarray((raw > EXACT) | (raw < -EXACT if raw.dtype.kind == "i" else False))
        changed = large & (values.astype(np.longdouble) != raw.astype(np.longdouble))
        if changed.any():
            raise where.refusal(
                int(rows[changed.argmax()]),
                f"holds {raw[changed.argmax()]} beyond 2^53, where float64 does not hold it; subtract an offset, or "
                "scale the values",
            )
    if not present.all():
        values[~present] = np.nan
    return values
