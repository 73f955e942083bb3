"""Dtypes of weight files: one table, one spelling per file format."""

from typing import NamedTuple

import numpy as np

from latte_ms.weights.errors import WeightError


class Dtype(NamedTuple):
    """One dtype in the spelling of each format."""

    name: str  # numpy's and torch's
    itemsize: int  # bytes
    storage: str  # torch's storage class; empty where torch has none
    safetensors: str
    mindspore: str  # in .ckpt files
    floating: bool = False


TABLE = (
    Dtype("float64", 8, "DoubleStorage", "F64", "Float64", True),
    Dtype("float32", 4, "FloatStorage", "F32", "Float32", True),
    Dtype("float16", 2, "HalfStorage", "F16", "Float16", True),
    Dtype("bfloat16", 2, "BFloat16Storage", "BF16", "BFloat16", True),
    Dtype("int64", 8, "LongStorage", "I64", "Int64"),
    Dtype("int32", 4, "IntStorage", "I32", "Int32"),
    Dtype("int16", 2, "ShortStorage", "I16", "Int16"),
    Dtype("int8", 1, "CharStorage", "I8", "Int8"),
    Dtype("uint64", 8, "", "U64", "UInt64"),
    Dtype("uint32", 4, "", "U32", "UInt32"),
    Dtype("uint16", 2, "", "U16", "UInt16"),
    Dtype("uint8", 1, "ByteStorage", "U8", "UInt8"),
    Dtype("bool", 1, "BoolStorage", "BOOL", "Bool"),
)
BY_NAME = {row.name: row for row in TABLE}
BY_STORAGE = {row.storage: row for row in TABLE if row.storage}
BY_SAFETENSORS = {row.safetensors: row for row in TABLE}
BY_MINDSPORE = {row.mindspore: row for row in TABLE}


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype for a name of the table; bfloat16 comes from the package ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise WeightError(
            "bfloat16 weights need the package ml_dtypes: pip install ml_dtypes."
        ) from error
    return np.dtype(ml_dtypes.bfloat16)


def dtype_name(dtype: np.dtype) -> str:
    """The name of a numpy dtype; raises WeightError for one that no file can hold."""
    if dtype.name not in BY_NAME:
        raise WeightError(f"`dtype` must be one of {', '.join(BY_NAME)}; got {dtype.name}.")
    return dtype.name
