"""The notebooks run from top to bottom, and are stored without outputs."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("name", "said"),
    [("first_look", "Class tomato:"), ("from_checkpoint", "blocks.3.norm1 NLC 8×8, 1 prefix token")],
)
def test_the_notebook_runs(name: str, said: str) -> None:
    import nbclient  # not in the oldest environment
    import nbformat

    path = EXAMPLES / f"{name}.ipynb"
    assert path.stat().st_size < 20_000
    notebook = nbformat.read(path, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(
        output["text"] for output in outputs if output["output_type"] == "stream" and output["name"] == "stdout"
    )
    assert said in text
    assert "<iframe" in outputs[-1]["data"]["text/html"]  # the page of the record
