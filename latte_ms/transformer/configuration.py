from latte_ms.transformer.presets import LatteConfig as LatteConfig
from latte_ms.transformer.presets import with_preset as with_preset
from latte_ms.transformer.t2v_configuration import LatteT2VConfig as LatteT2VConfig
