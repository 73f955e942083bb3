"""Which files are downloaded: the choice by itself, and with huggingface_hub from a server."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from latte_ms.generation.pipelines.hub import choose, patterns
from latte_ms.generation.pipelines.latte import LattePipeline

NAME, REVISION = "someone/latte-small", "0" * 40
MODEL = "diffusion_pytorch_model"
FILES = [
    *("README.md", "model_index.json", "transformer/config.json", "vae/config.json"),
    *(f"transformer/{MODEL}.safetensors", f"transformer/{MODEL}.bin"),
    *(f"transformer/{MODEL}.{variant}.safetensors" for variant in ("fp16", "bf16")),
    *(f"vae/{MODEL}.safetensors", "vae/deeper/config.json"),
    *(f"text_encoder/model-0000{i}-of-00002.safetensors" for i in (1, 2)),
    *(f"text_encoder/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)),
    *("text_encoder/model.safetensors.index.json", "text_encoder/config.json"),
    "text_encoder/model.safetensors.index.fp16.json",
    *("tokenizer/spiece.model", "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json"),
    "scheduler/scheduler_config.json",
]
FOLDERS = ["tokenizer", "text_encoder", "vae", "transformer", "scheduler"]
SETTINGS = {name for name in FILES if name.endswith((".json", ".model")) and ".index" not in name}


class Hub(http.server.BaseHTTPRequestHandler):
    """The requests of the hub that a download makes, for one repository in a folder."""

    def __init__(self, folder: Path, sent: list[str], *rest: object) -> None:
        self.folder, self.sent = folder, sent
        super().__init__(*rest)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
        names = [str(file.relative_to(self.folder)) for file in files]
        if path == f"/api/models/{NAME}/revision/main":
            about = {"private": False, "downloads": 0, "likes": 0, "tags": []}
            siblings = [{"rfilename": name} for name in names]
            self.answer(json.dumps({"id": NAME, "sha": REVISION, "siblings": siblings, **about}))
        elif path in [f"/api/models/{NAME}/tree/{name}" for name in ("main", REVISION)]:
            tree = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
            self.answer(json.dumps(tree))
        elif (start := f"/{NAME}/resolve/{REVISION}/") and path.removeprefix(start) in names:
            name = path.removeprefix(start)
            self.answer((self.folder / name).read_bytes(), etag=name)
            if self.command == "GET":
                self.sent.append(name)
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, body: str | bytes, etag: str = "x") -> None:
        body = body.encode() if isinstance(body, str) else body
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{etag.replace("/", "-")}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository(small_folder: Path, tmp_path: Path) -> Path:
    """The small pipeline, with an fp16 variant of its transformer."""
    folder = Path(shutil.copytree(small_folder, tmp_path / "repository"))
    transformer = folder / "transformer"
    shutil.copy(transformer / f"{MODEL}.safetensors", transformer / f"{MODEL}.fp16.safetensors")
    return folder


@pytest.fixture
def sent() -> list[str]:
    """Files that the server has sent."""
    return []


@pytest.fixture
def endpoint(repository: Path, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(Hub, repository, sent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_only_the_files_of_a_variant_are_chosen() -> None:
    chosen = choose(FILES, FOLDERS, "fp16")
    assert len(chosen) == len(set(chosen))
    assert set(chosen) == SETTINGS - {"vae/deeper/config.json"} | {
        f"transformer/{MODEL}.fp16.safetensors",
        f"vae/{MODEL}.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.fp16-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
    }
    with pytest.raises(ValueError, match=r"`variant` \(='int8'\) is in no component"):
        choose(FILES, FOLDERS, "int8")
    with pytest.raises(ValueError, match=r"`variant` \(='bf16'\) is in no component"):
        choose(FILES, ["vae", "tokenizer"], "bf16")


def test_patterns_choose_the_same_files_without_a_variant() -> None:
    from huggingface_hub.utils import filter_repo_objects

    files = [name for name in FILES if name != "vae/deeper/config.json"]
    for folders in (FOLDERS, ["vae", "scheduler"]):
        assert sorted(filter_repo_objects(files, **patterns(folders))) == sorted(
            choose(files, folders, None)
        )


def test_only_the_files_of_a_variant_are_downloaded(
    endpoint: str, sent: list[str], tmp_path: Path, repository: Path
) -> None:
    options = {"endpoint": endpoint, "cache_dir": tmp_path / "cache", "low_memory": True}
    pipeline = LattePipeline.from_pretrained(NAME, variant="fp16", text_encoder=None, **options)
    assert f"transformer/{MODEL}.fp16.safetensors" in sent
    assert f"transformer/{MODEL}.safetensors" not in sent
    assert f"vae/{MODEL}.safetensors" in sent, "it has no variant"
    assert not [name for name in sent if name.startswith("text_encoder")]
    assert pipeline.transformer.config.caption_channels == 32
    sent.clear()
    with pytest.raises(ValueError, match=r"`variant` \(='bf16'\) is in no component"):
        LattePipeline.from_pretrained(NAME, variant="bf16", **options)
    assert sent == [], "refused before any download"
    (repository / "vae" / f"{MODEL}.other.safetensors").write_bytes(b"")
    LattePipeline.from_pretrained(NAME, text_encoder=None, **options)
    assert sent == [f"transformer/{MODEL}.safetensors"], "the only file that is not in the cache"


def test_a_variant_is_read_from_the_cache_when_the_hub_cannot_be_reached(
    endpoint: str, tmp_path: Path
) -> None:
    options = {"variant": "fp16", "cache_dir": tmp_path / "cache", "text_encoder": None}
    online = LattePipeline.from_pretrained(NAME, endpoint=endpoint, **options)
    for offline in ({"endpoint": "http://127.0.0.1:9"}, {"local_files_only": True}):
        again = LattePipeline.from_pretrained(NAME, **options, **offline)
        weight = again.transformer.proj_out.weight.asnumpy()
        np.testing.assert_array_equal(weight, online.transformer.proj_out.weight.asnumpy())
