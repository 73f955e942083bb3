"""Weight files: reading, writing, and the names between the reference and this package."""

from latte_ms.weights.errors import WeightError as WeightError
from latte_ms.weights.files import read as read
from latte_ms.weights.files import write as write
from latte_ms.weights.network import load as load
from latte_ms.weights.network import save as save
from latte_ms.weights.tensors import Spec as Spec
from latte_ms.weights.tensors import Tensors as Tensors
from latte_ms.weights.tensors import from_arrays as from_arrays
