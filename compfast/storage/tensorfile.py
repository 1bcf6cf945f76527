"""Named arrays in the safetensors format: written as a stream, checked before anything is read.

The format (https://huggingface.co/docs/safetensors): 8 bytes of header length, a JSON header
name -> {dtype, shape, data_offsets}, the raw little-endian data. It can hold no code.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.errors import StorageError
from compfast.storage.durable import Chunk, guarded

Array = NDArray[Any]
Layout = dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype code, shape)

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # the limit of the reference implementation
_UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
_MAX_AXES = 32
_MAX_SIZE = 2**48  # elements, an axis of none counted as one


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a file: bytes [begin, end) counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def chunks(tensors: Mapping[str, Array]) -> Iterator[Chunk]:
    """The file's bytes; wide types first, so that every array is aligned to its own size."""
    names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        array = tensors[name]
        end = offset + array.nbytes
        header[name] = {
            "dtype": _CODES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        array = np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<"))
        yield array.reshape(-1).view(np.uint8).data


def read_header(path: Path) -> dict[str, Entry]:
    """The arrays that a file holds; raises StorageError unless they fill it exactly."""
    with guarded("read", path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise StorageError(f"{path} is cut off or not a safetensors file")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {name: _entry(fields, 8 + length) for name, fields in header.items()}
    except _UNREADABLE as error:
        raise StorageError(f"{path} has an unreadable header: {error}") from error
    position = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position or entry.end - position != _nbytes(entry.dtype, entry.shape):
            raise StorageError(f"{path} has arrays that do not fit their places")
        position = entry.end
    if position != size:
        raise StorageError(f"{path} has {size} bytes where its header says {position}")
    return entries


def check_layout(path: Path, expected: Layout) -> dict[str, Entry]:
    """The header of a file that must hold exactly `expected`; raises StorageError otherwise."""
    entries = read_header(path)
    if missing := sorted(expected.keys() - entries.keys()):
        raise StorageError(f"{path} lacks the array {missing[0]}")
    if extra := sorted(entries.keys() - expected.keys()):
        raise StorageError(f"{path} holds the unknown array {extra[0]}")
    for name, (dtype, shape) in expected.items():
        entry = entries[name]
        if (entry.dtype, entry.shape) != (dtype, tuple(shape)):
            raise StorageError(
                f"{path}: {name} is {entry.dtype} {list(entry.shape)},"
                f" the run's configuration says {dtype} {list(shape)}"
            )
    return entries


def read(path: Path, expected: Layout | None = None) -> dict[str, Array]:
    """All arrays of a file, checked against `expected` before memory is taken for them."""
    entries = read_header(path) if expected is None else check_layout(path, expected)
    return _read(path, entries)


def read_row(path: Path, row: int) -> dict[str, Array]:
    """Row `row` of the first axis of every array of a file, without reading the other rows."""
    rows = read_rows(path, range(row, row + 1))
    return {name: array.reshape(array.shape[1:]) for name, array in rows.items()}


def read_rows(path: Path, rows: range, names: Collection[str] | None = None) -> dict[str, Array]:
    """These rows (step 1) of the first axis of every array of a file, or of those named."""
    chosen: dict[str, Entry] = {}
    for name, entry in read_header(path).items():
        if names is not None and name not in names:
            continue
        if not entry.shape or not 0 <= rows.start < rows.stop <= entry.shape[0]:
            raise StorageError(
                f"{path}: {name} has shape {list(entry.shape)}, no row {rows.stop - 1}"
            )
        size = (entry.end - entry.begin) // entry.shape[0]
        shape = (len(rows), *entry.shape[1:])
        begin, end = (entry.begin + row * size for row in (rows.start, rows.stop))
        chosen[name] = Entry(entry.dtype, shape, begin, end)
    return _read(path, chosen)


def read_array(path: Path, name: str) -> Array:
    """One array of a file, without reading the others."""
    entries = read_header(path)
    if name not in entries:
        raise StorageError(f"{path} lacks the array {name}")
    return _read(path, {name: entries[name]})[name]


def layout_of(tensors: Mapping[str, Array]) -> Layout:
    return {
        name: (_CODES[array.dtype.newbyteorder("<")], array.shape)
        for name, array in tensors.items()
    }


def _read(path: Path, entries: Mapping[str, Entry]) -> dict[str, Array]:
    result: dict[str, Array] = {}
    with guarded("read", path), open(path, "rb") as file:
        for name, entry in entries.items():
            array = np.empty(entry.shape, _DTYPES[entry.dtype])
            file.seek(entry.begin)
            if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                raise StorageError(f"{path} ends before its array {name}")
            result[name] = array
    return result


def _entry(fields: Any, start: int) -> Entry:
    shape = tuple(int(size) for size in fields["shape"])
    begin, end = (int(offset) + start for offset in fields["data_offsets"])
    possible = len(shape) <= _MAX_AXES and math.prod(max(n, 1) for n in shape) <= _MAX_SIZE
    if fields["dtype"] not in _DTYPES or min(shape, default=0) < 0 or not possible:
        raise ValueError(f"dtype {fields['dtype']} with shape {list(shape)}")
    return Entry(fields["dtype"], shape, begin, end)


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _DTYPES[dtype].itemsize
