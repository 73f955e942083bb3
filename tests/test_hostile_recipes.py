"""Recipes and files of prompts that are damaged, hostile, or simply wrong: one line, status 2."""

import random
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from latte_ms import config, yaml_text
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.text_recipe import TextToVideoRecipe
from latte_ms.training.autoencoder_recipe import AutoencoderTrainConfig
from latte_ms.training.recipe import TrainConfig
from scripts import sample, sample_t2v, train, train_autoencoder

RECIPES = Path(__file__).parents[1] / "configs"
LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
QUOTED_LAUGHS = "a0: lolololololololololol\n" + "".join(
    f"a{i}: '{f'${{a{i - 1}}}' * 9}'\n" for i in range(1, 12)
)
TRAIN = "base: BASE\n"  # a whole recipe, to which one mistake is added


def refused(
    main: Callable[[list[str]], None], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """The only line that a script writes when it ends with status 2, within seconds."""
    capsys.readouterr()
    started = time.perf_counter()
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--dry-run"])
    seconds = time.perf_counter() - started
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert len(line) < 700
    assert seconds < 10
    return line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("loop:\n  seed: ${", "`loop.seed` must refer to other keys as in ${section.key}, got '"),
        ("loop:\n  seed: ${}", "`loop.seed` must refer to other keys"),
        ("loop:\n  seed: ${a.${b}}", "`loop.seed`: Interpolation key 'b' not found"),
        ("loop:\n  seed: ${nowhere.at.all}", "Interpolation key 'nowhere.at.all' not found"),
        ("loop:\n  seed: ${loop.seed}", "`loop.seed`: the reference 'loop.seed' leads back"),
        ("loop: ${loop}", "leads back to itself"),
        ("loop:\n  seed: ${oc.env:LATTE_NOT_SET}", "variable 'LATTE_NOT_SET' is not set"),
        ("loop:\n  seed: ${eval:1+1}", "Interpolation key 'eval:1+1' not found"),
        ("loop:\n  seed: ???", "Missing required keys: loop.seed"),
        (LAUGHS, "it has more than 20000 values"),
        (QUOTED_LAUGHS, "refers to more values than a recipe may hold"),
        ("a: &a [*a]", "the alias 'a' is unknown or recursive"),
        ("a: *nothing", "the alias 'nothing' is unknown or recursive"),
        ("a: " + "[" * 900 + "]" * 900, "it is nested more than 20 levels deep"),
        ("a: " + "{b: " * 900 + "}" * 900, "it is nested more than 20 levels deep"),
        ("".join(f"{' ' * i}a{i}:\n" for i in range(500)), "it is nested more than 20 levels deep"),
        ("loop:\n  seed: 1\n  seed: 2", "duplicate key 'seed' in line 3"),
        ("loop:\n\tseed: 1", "found character that cannot start any token in line 3"),
        ("loop: {seed: 1", "did not find expected ',' or '}'"),
        ("a: [\n---\n]", "is not valid YAML"),
        ("---\nvae: a", "found another document"),
        ("loop:\n  seed: " + "9" * 5000, "`loop.seed`: "),
        ("loop:\n  seed: 99999999999999999999", "`loop.seed` must fit in 64 bits"),
        ("loop:\n  seed: 0x" + "f" * 5000, "`loop.seed`: "),
        ("loop:\n  seed: -1", "`loop.seed` must be 0 to 9223372036854775807, got -1"),
        ("loop:\n  seed: true", "`loop.seed`: Value 'True' of type 'bool'"),
        ("loop:\n  seed: [1, 2]", "`loop.seed` must be a single value, got [1, 2]"),
        ("loop:\n  seed: {a: 1}", "`loop.seed` must be a single value, got {'a': 1}"),
        ("loop:\n  seed: 2020-01-01", "`loop.seed`: Value '2020-01-01'"),
        ("loop:\n  seed: 1e3", "`loop.seed`: Value '1000.0'"),
        ("loop: [1]", "`loop` must hold keys and values, got [1]"),
        ("initial_only_network: 2", "`initial_only_network` must be true or false, got 2"),
        ("initial_only_network: 1.5", "`initial_only_network` must be true or false, got 1.5"),
        ("cache_latents: true", "`cache_latents` is gone: run latte-encode"),
        ("recompute: 11", "`recompute` must be all, or a number of blocks from 0 to 10, got 11"),
        ("recompute: 1.5", "`recompute`: Value '1.5' of type 'float'"),
        ("recompute: true", "`recompute`: Value 'True' of type 'bool'"),
        ("optimizer:\n  weight_decay: 1e999", "`optimizer.weight_decay` must be a finite number"),
        ("optimizer:\n  weight_decay: .nan", "`optimizer.weight_decay` must be a finite number"),
        ("1: a", "Unknown key '1'"),
        ("? [a, b]\n: c", "unhashable key"),
        ("? {a: b}\n: c", "unhashable key"),
        ("~: a", "Unknown key '~'"),
        ("x" * 1000 + ": 1", "Unknown key 'xxx"),
        ("x" * 100_000 + ": 1", "could not find expected ':'"),
        ("".join(f"key{i}: 1\n" for i in range(5000)), "Unknown key 'key0'"),
        ("vae: !!python/object/apply:os.system [touch RAN]", "the tag 'tag:yaml.org,2002:python"),
        ("vae: !!python/name:os.system ''", "the tag 'tag:yaml.org,2002:python"),
        ("vae: !!binary aGFsbG8=", "the tag 'tag:yaml.org,2002:binary' is not allowed"),
        ("vae: !<x> y", "the tag 'x' is not allowed"),
        ('vae: "a\\0b"', "`vae` must not hold a NUL character"),
        ("vae: ''", "`vae` must be a non-empty string, got ''"),
        ("vae: [a]", "`vae` must be a single value, got ['a']"),
        (
            "diffusion:\n  num_train_steps: 2000000000",
            "`diffusion.num_train_steps` must be 1 to 100000",
        ),
        (
            "diffusion:\n  num_train_steps: 0",
            "`diffusion.num_train_steps` must be 1 to 100000",
        ),
        (
            "loop:\n  batch_size: 1000000000",
            "`loop.batch_size` must be 1 to 100000",
        ),
        (
            "loop:\n  num_workers: 1000000000",
            "`loop.num_workers` must be 1 to 1024",
        ),
        ("data:\n  image_size: 1000000", "`data.image_size` must be at most 8192"),
        ("network:\n  depth: 1000000000", "`depth`, `hidden_size` and `mlp_ratio` ask for "),
        ("network:\n  hidden_size: 1000000000", "ask for "),
        ("network:\n  mlp_ratio: 1e200", "`mlp_ratio` ask for "),
        ("network:\n  num_classes: 1000000000", "`num_classes` or "),
        ("network:\n  input_size: 1000000000", "`input_size`, `num_frames` and `hidden_size` ask"),
        ("vae_chunk_frames: 1000000000", "`vae_chunk_frames` must be at most 4096"),
    ],
)
def test_a_hostile_recipe_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(f"base: {RECIPES / 'shapes' / 'train.yaml'}\n{content}", encoding="utf-8")
    assert message in refused(train.main, ["--config", str(path)], capsys)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\0b", "it holds a NUL character"),
        (bytes(range(256)), "it is not UTF-8 text (invalid start byte at byte 128)"),
        ("vae: café".encode("latin-1"), "it is not UTF-8 text"),
        ("vae: a".encode("utf-16"), "it is not UTF-8 text"),
        (b"#" * 2_000_000, "it has more than 1048576 bytes"),
        (b"\x01", "control characters are not allowed"),
        (b"text", "`--config` must hold keys and values, got 'text'"),
        (b"", "Missing required keys: "),
        (b"\xef\xbb\xbf", "Missing required keys: "),
        (b"# a comment", "Missing required keys: "),
        (None, "`--config` is not a file: "),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None: a folder of that name."""
    path = tmp_path / "recipe.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    for main in (train.main, sample.main, sample_t2v.main, train_autoencoder.main):
        assert message in refused(main, ["--config", str(path)], capsys)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=${", "`seed` must refer to other keys"),
        ("seed", "An override has the form key=value, got 'seed'"),
        ("=1", "An override has the form key=value, got '=1'"),
        ("a..b=1", "An override has the form key=value"),
        ("classes[0]=1", "An override has the form key=value"),
        ("[=1", "An override has the form key=value"),
        (".=1", "An override has the form key=value"),
        ("seed=[", "The value of an override is not valid YAML: 'seed=['"),
        ("seed=!!python/none", "the tag 'tag:yaml.org,2002:python/none' is not allowed"),
        ("seed=" + "[" * 5000, "exceeded maximum nesting depth"),
        ("seed=a: b: c", "is not valid YAML"),
        ("seed=-1", "`seed` must be an integer of at least 0, got -1"),
        ("seed=" + "1" * 100_000, "`seed`: "),
        ("num_videos=1000000000000", "`num_videos` must be at most 1000000, got 1000000000000"),
        ("batch_size=1000000000", "`batch_size` must be at most 4096"),
        ("fps=1e9", "`fps` must be above 0 and at most 1000"),
        ("fps=-1", "`fps` must be above 0 and at most 1000"),
        ("fps=[8]", "`fps` must be a single value, got [8]"),
        ("classes=1", "`classes` must be a list such as [1], got 1"),
        ("classes=[[1]]", "`classes` must be a list of single values, got [[1]]"),
        ("classes=[{a: 1}]", "`classes` must be a list of single values, got [{'a': 1}]"),
        ("classes=[-1]", "`classes` must be in [0, 192), got -1"),
        ("formats=[exe]", "`formats` must be one or more of"),
        ("sampler=5", "`sampler` must hold keys and values, got 5"),
        ("sampler.num_steps=1000000000000", "`sampler.num_steps` must be from 1 to"),
        ("sampler.num_train_steps=2000000000", "must be"),
        ("output=''", "`output` must be a non-empty string"),
        ("runtime.memory_limit_gb=1e300", "`runtime.memory_limit_gb` must be from 0 to"),
    ],
)
def test_a_hostile_override_is_one_line(
    override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(RECIPES / "shapes" / "sample.yaml")
    assert message in refused(sample.main, ["--config", path, override], capsys)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_images_per_prompt=1000000000000", "`num_images_per_prompt` must be at most 1000000"),
        ("video_length=-3", "`video_length` must be an integer of at least 1, got -3"),
        ("height=100000000", "`height` must be at most 65536"),
        ("width=-8", "`width` must be an integer of at least 0"),
        ("num_inference_steps=1000000000", "`num_inference_steps` must be at most"),
        ("guidance_scale=[7]", "`guidance_scale` must be a single value"),
        ("timesteps=[b, a]", "`timesteps[0]`: Value 'b' of type 'str'"),
        ("timesteps=[]", "`timesteps` must be descending numbers"),
        ("tile_size=1000000000", "`tile_size` must be at most"),
        ("frame_interval=0", "`frame_interval` must be an integer of at least 1"),
        ("decode_chunk_size=0", "`decode_chunk_size` must be an integer of at least 1"),
        ("prompts=[]", "must hold a prompt, got none"),
        ("prompts=5", "`prompts` must be a list such as [5], got 5"),
        ("seed=9223372036854775807", "`seed` must be at most 4611686018427387904"),
    ],
)
def test_a_hostile_request_is_one_line(
    override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(RECIPES / "t2v" / "t2v.yaml")
    assert message in refused(sample_t2v.main, ["--config", path, override], capsys)


def test_a_text_is_what_is_written() -> None:
    """Numbers, times and words that YAML 1.1 would read as something else."""
    fields = {"pipeline": "p", "output": "o"}
    for text in ("12:30", "012", "1.10", "no", "on", "2020-01-01", "1e3", "true", "0x1F", "1_000"):
        overrides = [*(f"{key}={value}" for key, value in fields.items()), f"prompt={text}"]
        assert config.load(TextToVideoRecipe, None, overrides).all_prompts == [text]


def test_aliases_merges_and_references(tmp_path: Path) -> None:
    """What is within the limits keeps its meaning."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "pipeline: &p folder\noutput: ${pipeline}/${seed}\nrevision: *p\nseed: 7\n"
        "prompts: [a, '${prompts[0]} b', '${oc.env:LATTE_NONE,c}']\n"
    )
    cfg = config.load(TextToVideoRecipe, path)
    assert (cfg.output, cfg.revision, cfg.seed) == ("folder/7", "folder", 7)
    assert cfg.prompts == ["a", "a b", "c"]
    values = yaml_text.load_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert values["b"] == {"x": "1", "y": "3"}


# Files of prompts.


def prompts_of(path: Path) -> list[str]:
    overrides = ["pipeline=p", "output=o", f"prompts_file={path}"]
    return config.load(TextToVideoRecipe, None, overrides).all_prompts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a cat\0\n", "`prompts_file` must be text, but holds NUL characters: "),
        (b"\xff\xfe", "`prompts_file` must be UTF-8 text, got "),
        (bytes(range(256)), "`prompts_file` must be "),
        (b"", "must hold a prompt, got none in "),
        (b"\r\n \t\r\n\xef\xbb\xbf", "must be|hold a prompt"),
        (None, "`prompts_file` is not a file: "),
        (b"\n".join(b"p%d" % i for i in range(1_000_000)), "At most 100000 prompts can be sampled"),
        (b"a" * (1 << 26) + b"\n", "`prompts_file` must have at most 67108864 bytes"),
    ],
)
def test_a_file_without_usable_prompts_is_named(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    """None: a folder of that name."""
    path = tmp_path / "prompts.txt"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    if content is not None and content.startswith(b"\r\n"):
        assert prompts_of(path) == ["\ufeff"]
        return
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        prompts_of(path)
    assert len(str(error.value)) < 600


def test_lines_of_prompts(tmp_path: Path) -> None:
    """A byte order mark, line ends of Windows, empty lines, comments, and letters of all kinds."""
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\r\n# no\r\nun café\r\n  猫 \n".encode())
    assert prompts_of(path) == ["a cat", "un café", "猫"]


def test_names_of_very_many_prompts() -> None:
    """One pass, also where all prompts have the same words."""
    from latte_ms.media import file_stems

    started = time.perf_counter()
    stems = file_stems([f"a cat{'!' * (i % 50)}{'?' * (i // 50)}" for i in range(5000)])
    assert len(set(stems.values())) == 5000
    assert time.perf_counter() - started < 2


# By program.

SCHEMAS = {
    "shapes/train.yaml": TrainConfig,
    "ucf101/train.yaml": TrainConfig,
    "shapes/autoencoder.yaml": AutoencoderTrainConfig,
    "ucf101/sample.yaml": LatteRecipe,
    "t2v/t2v.yaml": TextToVideoRecipe,
}
VALUES = (
    "${", "${a}", "${seed}", "-1", "1e999", ".nan", "9" * 400, "1" * 50_000, "[]", "{}", "null",
    "'", '"', "*a", "&a b", "!!python/object/apply:os.system ['touch RAN']", "!!int x", "~",
    "\t", "\0", "é", "true", "0", "10000000000000", "-9223372036854775809", "[[[[[]]]]]", "? x",
    "!!binary x", "---", "1.5", "0.0", "''", "2020-01-01", "${oc.env:HOME}", "<<: *a",
    "???", "x" * 30_000, "[1, 2, 3]",
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three mistakes: a value, a bit, a piece removed, repeated, or put elsewhere."""
    for _ in range(rng.randint(1, 3)):
        lines = data.split(b"\n")
        place, kind = rng.randrange(len(lines)), rng.randrange(6)
        if kind <= 2 and b":" in lines[place]:
            key = lines[place].split(b":")[0]
            lines[place] = key + b": " + rng.choice(VALUES).encode()
        elif kind == 3:
            lines[place] = b" " * rng.randrange(4) + lines[place].lstrip()
        elif kind == 4:
            lines[place : place + 1] = [lines[place]] * rng.randrange(3)
        data = b"\n".join(lines)
        if kind == 5 and data:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([rng.randrange(256)]) * rng.randrange(3) + data[at + 1 :]
    return data


OF_TRAINING = ("preset", "data.crop", "runtime.precision", "diffusion.noise_schedule")
LONG = [*(("ucf101/train.yaml", key) for key in OF_TRAINING), ("t2v/t2v.yaml", "entry")]
LONG += [("ucf101/sample.yaml", "network.conditioning"), ("t2v/t2v.yaml", "parameter_precision")]


@pytest.mark.parametrize(("name", "override"), LONG)
def test_a_long_value_is_shortened_in_its_message(name: str, override: str) -> None:
    with pytest.raises(ValueError, match=override.rpartition(".")[2]) as caught:
        config.load(SCHEMAS[name], RECIPES / name, [f"{override}={'x' * 20_000}"])
    assert len(str(caught.value)) < 1000


def outcome(read: Callable[[], object]) -> str:
    """The message of its error, or none; fails for another error, and for slowness."""
    started, message = time.perf_counter(), ""
    try:
        read()
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    assert time.perf_counter() - started < 10
    assert len(message) < 5000
    return message


@pytest.mark.extended
def test_mutated_recipes_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred: nothing but the two kinds of errors, no hang, no code run, little memory."""
    monkeypatch.chdir(tmp_path)
    rng, path = random.Random(11), tmp_path / "recipe.yaml"
    tracemalloc.start()
    messages = []
    for _ in range(200):
        name = rng.choice(sorted(SCHEMAS))
        path.write_bytes(mutated((RECIPES / name).read_bytes(), rng))
        messages.append(outcome(partial(config.load, SCHEMAS[name], path)))
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()
    assert 20 < messages.count("") < 180, "neither all harmless nor all broken"
    assert not (tmp_path / "RAN").exists()


@pytest.mark.extended
def test_mutated_prompts_are_read_or_refused(tmp_path: Path) -> None:
    """Two hundred files: prompts, or an error that names the file."""
    rng, path = random.Random(10), tmp_path / "prompts.txt"
    start = "\ufeffa cat\r\n# no\n\nun café: 猫\n${x}\n!!python/object:os.system\n".encode()
    for _ in range(200):
        path.write_bytes(mutated(start * rng.randrange(1, 200), rng))
        message = outcome(partial(prompts_of, path))
        assert not message or str(path) in message
