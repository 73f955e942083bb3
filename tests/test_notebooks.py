"""The notebooks: what they carry is small and clean, and they run from top to bottom."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = ("1_sample", "2_text_to_video", "3_pytorch_checkpoint", "4_lora")
MAX_BYTES = 300_000
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|usr|opt|mnt|var|Users)/")
SECONDS = 1800  # of the slowest cell, on a busy machine

# Values that take the place of a notebook's own: fewer steps and updates of the same code.
QUICK: dict[str, dict[str, object]] = {
    "1_sample": {"NUM_STEPS": 2, "FEW_STEPS": 1, "OTHER_SCALES": [8.0]},
    "2_text_to_video": {"NUM_STEPS": 2, "FEW_STEPS": 2, "OTHER_SCALES": [9.0]},
    "3_pytorch_checkpoint": {},
    "4_lora": {"NUM_VIDEOS": 8, "NUM_UPDATES": 11, "BATCH_SIZE": 2, "NUM_STEPS": 1},
}
# What its outputs must say.
SAYS: dict[str, list[str]] = {
    "1_sample": [r"class 58, seed 2, in two batches: largest difference of a pixel [01] of 255"],
    "2_text_to_video": [r"transformer +[\d,]+ parameters", r"asked: a red star moving up"],
    "3_pytorch_checkpoint": [
        r"PyTorch was imported: False",
        r"refused: .* does not fit the network",
        r"ema +largest difference \S+ relative \S+ within 1e-5",
        r"model +largest difference \S+ relative \S+ beyond 1e-5",
        r"2 of 2 within their bounds",
        r"the same names: True \| the same numbers: True",
    ],
    "4_lora": [r"as before: True", r"merged equals strength 1: True", r"the adapter: [\d,]+ bytes"],
}


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook: NotebookNode) -> str:
    """Everything that the outputs say in letters."""
    texts = [
        part
        for output in outputs(notebook)
        for part in (output.get("text"), output.get("data", {}).get("text/plain"))
    ]
    return "\n".join(text for text in texts if text)


def set_parameters(notebook: NotebookNode, values: dict[str, object]) -> None:
    """Add a cell with `values` after the one tagged `parameters`, which must assign them all."""
    tagged = [
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())
    ]
    assert len(tagged) == 1
    statements = ast.parse(notebook.cells[tagged[0]].source).body
    own = {target.id for one in statements for target in one.targets}
    assert values.keys() <= own
    lines = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(lines))


def test_every_notebook_is_named_here() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_carries_small_clean_outputs(name: str) -> None:
    """It was run once, from top to bottom, without errors or warnings."""
    notebook = read(name)
    nbformat.validate(notebook)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MAX_BYTES
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {
        "stream",
        "execute_result",
        "display_data",
    }
    assert all(output.get("name", "stdout") == "stdout" for output in outputs(notebook))
    for statement in SAYS[name]:
        assert re.search(statement, printed(notebook)), statement
    everything = "\n".join([printed(notebook), *(cell.source for cell in notebook.cells)])
    assert not MACHINE_PATH.findall(everything)
    assert "warning" not in printed(notebook).lower()


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name: str) -> None:
    texts = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    links = re.findall(r"\]\(([^)#]+)\)", "\n".join(texts))
    assert [link for link in links if "//" not in link and not (FOLDER / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    """In a kernel of its own, with fewer steps."""
    notebook = read(name)
    set_parameters(notebook, {**QUICK[name], "OUTPUT": str(tmp_path)})
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    for statement in SAYS[name]:
        assert re.search(statement, printed(notebook)), statement
