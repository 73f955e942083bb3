"""CLIP (arXiv 2103.00020): images and texts as vectors of one space, from transformers' folders.

mindone 0.5 has the network, too, but its image tower has no kernel on a CPU (`mint.nn.Conv2d`), and
it imports transformers and with it torch, 25 s on two cores where both are installed.
"""

from latte_ms.metrics.clip.configuration import CLIPConfig as CLIPConfig
from latte_ms.metrics.clip.folder import load_clip as load_clip
from latte_ms.metrics.clip.network import CLIP as CLIP
