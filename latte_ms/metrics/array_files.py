"""numpy's files of arrays, which a user may bring damaged, or a killed process leave so."""

import tokenize
import zipfile
import zlib

# What `numpy.load`, and reading the arrays of an npz file, raise for a damaged file.
DAMAGE = (
    *(OSError, EOFError, ValueError, RuntimeError, MemoryError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
