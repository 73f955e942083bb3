"""Prompts to embeddings: caption cleaning, tokens and the T5 encoder."""

from latte_ms.text.cleaning import clean_caption as clean_caption
from latte_ms.text.cleaning import normalise_prompt as normalise_prompt
from latte_ms.text.encoder import PromptEmbeddings as PromptEmbeddings
from latte_ms.text.encoder import PromptEncoder as PromptEncoder
from latte_ms.text.streaming import StreamedT5Encoder as StreamedT5Encoder
from latte_ms.text.t5 import T5Encoder as T5Encoder
from latte_ms.text.t5_configuration import T5Config as T5Config
from latte_ms.text.tokenizer import load_tokenizer as load_tokenizer
