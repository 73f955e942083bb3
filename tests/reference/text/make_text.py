"""What diffusers makes of captions and transformers of tokens and embeddings, stored for the tests.

    python tests/reference/text/make_text.py

needs torch, diffusers 0.35.2, transformers 4.57.1, sentencepiece, ftfy and beautifulsoup4. It
writes captions.json (caption, cleaned twice) and io.npz beside itself: ids, masks and embeddings
of `PROMPTS` by the tokenizer and the encoder in ../t2v, and the rows of relative positions.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from diffusers import LattePipeline
from transformers import T5EncoderModel, T5Tokenizer
from transformers.models.t5.modeling_t5 import T5Attention

HERE = Path(__file__).parent
PIPELINE = HERE.parent / "t2v"
CAPTIONS = (
    "",
    "   ",
    "A Cat, wearing SUNGLASSES and working as a lifeguard at pool.",
    "a dog\tin\nthe   rain ",
    "<person> walks <b>down</b> the &lt;road&gt; &amp; waves",
    "visit https://www.example.com/a/b?c=d&e=f now",
    "www:example.org and mail me@example.com, see example.co.uk/path",
    "@some_nick says hi to @other",
    "\u6d77\u8fb9\u7684\u732b sits \u32ff\u33a1\u4dc0 there",
    "em\u2014dash en\u2013dash \u301c wave \u30a0 and \ufe63 small",
    "\u00abquoted\u00bb \u201ccurly\u201d `ticks` \u2018single\u2019 \u00a8",
    "&quot;bold&quot statement &amp;amp; more &amp",
    "server at 192.168.100.1 is on fire",
    "ends with a time 3:45  ",
    "line\\nbreak literal",
    "#123 and #1234 and #12345678 and 1234567 and 12345",
    "photo.jpg DSC_0012.PNG report.pdf clip.mp4.",
    '"""AUSVERKAUFT""" \'\'x\'\' ... wait....',
    "***SALE*** #SALE (now) [or] {never} a\\b a/b ~x~ \u00a7 \u00bf \u00ae",
    "this-is-my-cute-cat and this_is_my_cute_cat",
    "well-known self-made",
    "jc6640 jc6640vc 6640vc231 j2d1a2a abc123def456",
    "Free shipping worldwide! free download free, worldwide free shipping",
    "click for more click on this; png images jpg image of a fox",
    "page 12 of 640x480 or 1.5\u00d72.5 and 3\u04454",
    "title : subtitle ,no space.after,comma/slash",
    "'wrapped in quotes'",
    "-leading dash, trailing colon:",
    ".hidden",
    ":;odd start",
    "schÃ¶n mojibake â€œquotesâ€\u009d",
    "&amp;lt;b&amp;gt; doubly escaped &amp;nbsp;",
    "\ufb01ne ligature, full\uff0dwidth \uff21\uff22\uff23",
    "emoji \U0001f431 cat \U0001f468\u200d\U0001f469 family",
    "100% real + plus+signs and %41%42",
    "<script>alert('x')</script><style>p{}</style> text <!-- gone --> end",
    "a < b and c > d, 5<6",
    '<div class="x">unclosed <i>tags',
    "<?xml version='1.0'?><a>b</a>",
    "http://a.com",
    "image.png",
    "\u00bd cup of \u00b7 tea \u00b0 warm \u2122",
    "\u05be \u1806 \u2e3a dashes of the world",
    "x" * 300 + " " + "very long " * 80,
)
PROMPTS = (
    "",
    "low quality blurry",
    "a cat wearing sunglasses and working as a lifeguard at pool",
    "a yellow tabby cat is running on the grass </s> and back",
    "the quick brown fox jumps over the lazy dog " * 12,
)


def cleaned(caption: str) -> str:
    pipeline = object.__new__(LattePipeline)  # the methods read no state
    return pipeline._text_preprocessing(caption, clean_caption=True)[0]


def position_rows(length: int, buckets: int, distance: int) -> np.ndarray:
    offset = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    rows = T5Attention._relative_position_bucket(offset, num_buckets=buckets, max_distance=distance)
    return rows[0].numpy().astype(np.int32), rows[:, 0].numpy().astype(np.int32)


def main() -> None:
    warnings.simplefilter("ignore")
    pairs = [[caption, cleaned(caption)] for caption in CAPTIONS]
    text = json.dumps(pairs, indent=1, ensure_ascii=True) + "\n"
    (HERE / "captions.json").write_text(text, encoding="utf-8")
    tokenizer = T5Tokenizer.from_pretrained(PIPELINE / "tokenizer")
    encoder = T5EncoderModel.from_pretrained(PIPELINE / "text_encoder").eval()
    tokens = tokenizer(
        list(PROMPTS), padding="max_length", max_length=120, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        embeddings = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    arrays = {
        "ids": tokens.input_ids.numpy().astype(np.int32),
        "mask": tokens.attention_mask.numpy().astype(np.int32),
        "embeddings": embeddings.numpy(),
    }
    for buckets, distance in ((32, 128), (16, 64), (8, 20)):
        first, last = position_rows(300, buckets, distance)
        arrays[f"after_{buckets}_{distance}"] = first  # keys at distances 0, 1, ... 299
        arrays[f"before_{buckets}_{distance}"] = last
    np.savez_compressed(HERE / "io.npz", prompts=np.array(PROMPTS), **arrays)


if __name__ == "__main__":
    main()
