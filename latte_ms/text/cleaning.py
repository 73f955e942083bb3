"""Caption cleaning as in the reference, before captions are tokenized.

Latte was trained on captions cleaned by DeepFloyd IF's recipe: it removes URLs, IP addresses, tags,
file names, article numbers and advertising, and normalises punctuation. A prompt must pass the same
rules in the same order, each applied to the result of those before. ftfy and BeautifulSoup are part
of the recipe, so both are required.
"""

import html
import re
import warnings
from urllib.parse import unquote_plus

from latte_ms.extras import needs
from latte_ms.messages import shown

Substitutions = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> Substitutions:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_DOMAIN = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"
_FILE_TYPES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DASHES = (
    r"\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0"
    r"\uFE31\uFE32\uFE58\uFE63\uFF0D"
)
# ( ) [ ] { } | \ / * # ~ @ &, the registered, copyright, trademark and section signs, bullet,
# middle dot, ordinal, one half, three quarters, inverted question and exclamation marks.
_BAD_PUNCTUATION = (
    r"[#\u00AE\u2022\u00A9\u2122&@\u00B7\u00BA\u00BD\u00BE\u00BF\u00A1\u00A7~)(\][}{|\\/*]+"
)

BEFORE_HTML = _rules(
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", ""),
)
AFTER_HTML = _rules(
    (r"@[\w\d]+\b", ""),  # nicknames
    (r"[\u31C0-\u9FFF]+", ""),  # strokes, enclosed and compatibility forms, ideographs, hexagrams
    (rf"[{_DASHES}]+", "-"),
    (r"[`\u00B4\u00AB\u00BB\u201C\u201D\u00A8]", '"'),
    (r"[\u2018\u2019]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),  # a time of day at the end
    (r"\\n", " "),  # a line end that is still written as two characters
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_FILE_TYPES})", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (_BAD_PUNCTUATION, " "),
    (r"\s+\.\s+", " "),
)
DASH_OR_UNDERSCORE = re.compile("[-_]")
MAX_DASHES = 3  # more of them stand for the spaces in a file name
AFTER_REPAIR = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILE_TYPES})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[x\u0445\u00D7]\d+\.?\d*\b", ""),  # 640x480, also with a Cyrillic x or a cross
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def normalise_prompt(prompt: str, clean: bool) -> str:
    """The text to tokenize: cleaned twice, as in training, or only lower-cased and stripped."""
    return clean_caption(clean_caption(prompt)) if clean else prompt.lower().strip()


def clean_caption(caption: str) -> str:
    """One pass of the cleaning; `normalise_prompt` makes two.

    Raises ValueError for a caption whose markup the HTML parser rejects.
    """
    with needs("t2v", "Cleaning a caption"):
        import ftfy
    text = _apply(BEFORE_HTML, unquote_plus(caption).strip().lower())
    text = _apply(AFTER_HTML, _without_tags(text))
    if len(DASH_OR_UNDERSCORE.findall(text)) > MAX_DASHES:
        text = DASH_OR_UNDERSCORE.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _apply(AFTER_REPAIR, text).strip()


def _apply(rules: Substitutions, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _without_tags(text: str) -> str:
    with needs("t2v", "Cleaning a caption"):
        import bs4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about captions that look like a file name or XML
        try:
            return str(bs4.BeautifulSoup(text, features="html.parser").text)
        except bs4.ParserRejectedMarkup as error:
            raise ValueError(
                f"A prompt or caption must not contain broken markup, got {shown(text)}."
            ) from error
