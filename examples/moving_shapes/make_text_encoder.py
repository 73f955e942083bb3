"""Write a tokenizer and a T5 encoder for the captions of the moving shapes.

    python examples/moving_shapes/make_text_encoder.py --target FOLDER

The folder gets `tokenizer` and `text_encoder` in the layout of diffusers' pipelines. The tokenizer
has a token for each word of the captions. The encoder has random weights and is never trained: so
few words are far apart already, and what they mean is learned by the network that reads them.
"""

import argparse
import io
import itertools
import sys
from pathlib import Path

import sentencepiece

from examples.moving_shapes.shapes import COLOURS, MOTIONS, SHAPES, caption_of
from latte_ms.atomic import atomic_file
from latte_ms.text import T5Config, T5Encoder
from latte_ms.weights.pretrained import save_pretrained

VOCABULARY = 128  # T5's three special tokens, the words of the captions, parts of them
CONFIG = T5Config(
    vocab_size=VOCABULARY,
    d_model=64,
    d_kv=16,
    d_ff=128,
    num_layers=2,
    num_heads=4,
)
TOKENIZER_CONFIG = (
    '{"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "legacy": false,'
    ' "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}\n'
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="of the encoder's weights")
    args = parser.parse_args()
    folders = [args.target / name for name in ("tokenizer", "text_encoder")]
    for folder in folders:
        if folder.exists():
            print(f"error: `--target` holds one already: {folder}.", file=sys.stderr)
            return 2
    write_tokenizer(folders[0])
    save_pretrained(T5Encoder(CONFIG, seed=args.seed), folders[1])
    print(f"{folders[0]}\n{folders[1]}")
    return 0


def captions() -> list[str]:
    """Every caption that a video of the set may have."""
    return [caption_of(*parts) for parts in itertools.product(COLOURS, SHAPES, MOTIONS)]


def write_tokenizer(folder: Path) -> None:
    """Train sentencepiece on all captions; the same file at every call."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions()),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder.mkdir(parents=True)
    for name, content in (
        ("spiece.model", model.getvalue()),
        ("tokenizer_config.json", TOKENIZER_CONFIG.encode()),
    ):
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
