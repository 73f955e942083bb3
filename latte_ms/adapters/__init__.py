"""LoRA: small trained changes of a network's linear layers; see `weights` for what they are."""

from latte_ms.adapters.files import read as read
from latte_ms.adapters.files import write as write
from latte_ms.adapters.weights import LoraWeights as LoraWeights
from latte_ms.adapters.weights import LowRank as LowRank
