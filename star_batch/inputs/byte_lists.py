"""Images whose bytes are stored as lists of small whole numbers, made into bytes. Knows types and arrays, and no file.

Arrow's fixed-size lists of `uint8` are such, as are plain lists; they may be a row's image, one of several, or the
`bytes` of a struct. A list with a null in it is no image.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def is_list(type: pa.DataType) -> bool:
    """A list of whatever, of any length or of one."""
    types = pa.types
    return bool(types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type))


def image_type(type: pa.DataType) -> pa.DataType:
    """What an image column of this type is read as: lists of `uint8` in it as bytes."""
    if _is_byte_list(type):
        return pa.large_binary()
    if pa.types.is_struct(type) and any(map(_is_byte_list, _types(type))):
        return pa.struct([field.with_type(image_type(field.type)) for field in type])
    if is_list(type) and (pa.types.is_fixed_size_list(type) or image_type(type.value_type) != type.value_type):
        return pa.large_list(image_type(type.value_type))
    return type


def as_images(values: pa.ChunkedArray, type: pa.DataType) -> pa.ChunkedArray:
    """The values with lists of `uint8` as bytes, where `type` has bytes; else as they are."""
    if not _differ(values.type, type):
        return values
    chunks = [_converted(chunk, type) for chunk in values.chunks]
    return pa.chunked_array(chunks, type=None if chunks else type)


def _is_byte_list(type: pa.DataType) -> bool:
    return is_list(type) and bool(pa.types.is_uint8(type.value_type))


def _types(type: pa.DataType) -> list[pa.DataType]:
    return [type.field(index).type for index in range(type.num_fields)]


def _differ(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether lists become bytes, or lists of one length lists of any."""
    if pa.types.is_struct(source) and pa.types.is_struct(target):
        names = {field.name: field.type for field in target}
        return any(field.name in names and _differ(field.type, names[field.name]) for field in source)
    if is_list(source) and is_list(target):
        return source.id != target.id or _differ(source.value_type, target.value_type)
    return _is_byte_list(source) and bool(pa.types.is_large_binary(target))


def _converted(array: Any, type: pa.DataType) -> Any:
    if not _differ(array.type, type):
        return array
    if pa.types.is_struct(type):
        names = {field.name: field.type for field in type}
        parts = [_converted(array.field(i), names.get(f.name, f.type)) for i, f in enumerate(array.type)]
        fields = [f.with_type(part.type) for f, part in zip(array.type, parts, strict=True)]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=array.is_null())
    validity, offsets, values = _as_lists(array)
    if not pa.types.is_large_binary(type):
        values = _converted(values, type.value_type)
        return pa.Array.from_buffers(pa.large_list(values.type), len(array), [validity, offsets], children=[values])
    data = values.buffers()[-1] if values.offset == 0 else pa.concat_arrays([values, values[:0]]).buffers()[-1]
    joined = pa.Array.from_buffers(pa.large_binary(), len(array), [validity, offsets, data or pa.py_buffer(b"")])
    return _without_holes(joined, values) if values.null_count else joined


def _as_lists(array: Any) -> tuple[pa.Buffer | None, pa.Buffer, Any]:
    """Validity, 64-bit offsets into the values, and the values: of a list of any kind, sliced or not."""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        values = array.values.slice(array.offset * size, len(array) * size)
        offsets = pa.array(range(0, (len(array) + 1) * size, size) if size else [0] * (len(array) + 1), pa.int64())
    else:
        offsets, values = array.offsets.cast(pa.int64()), array.values
        offsets = pa.concat_arrays([offsets, offsets[:0]])
    validity = None
    if array.null_count:
        # Without its values: of these only which are there.
        validity = pa.array(array.is_valid().to_pylist()).buffers()[1]
    return validity, offsets.buffers()[1], values


def _without_holes(joined: pa.Array, values: pa.Array) -> pa.Array:
    holes = pc.indices_nonzero(values.is_null()).to_pylist()
    offsets = pa.Array.from_buffers(pa.int64(), len(joined) + 1, [None, joined.buffers()[1]]).to_numpy()
    rows = offsets.searchsorted(holes, side="right") - 1
    broken = {int(row) for row in rows}
    return pc.if_else(pa.array([row not in broken for row in range(len(joined))], pa.bool_()), joined, None)
