"""The gallery draws, and the pages show what it drew and say how."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import nothing_is_cut_off
from matplotlib.figure import Figure
from PIL import Image

import see_rnn_like

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = (ROOT / "docs" / "plots.md").read_text(encoding="utf-8")
SECTIONS = {int(n): text for n, text in re.findall(r"(?ms)^### EX (\d+): (.*?)(?=^##|\Z)", PAGE)}
PLOTTERS = {
    name for name in see_rnn_like.__all__ if name.startswith(("features_", "rnn_h", "hist_", "plot_"))
}

_spec = importlib.util.spec_from_file_location("gallery", ROOT / "examples" / "gallery.py")
gallery = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gallery)


@pytest.fixture(scope="module", autouse=True)
def _networks():
    """Networks are kept between tests, as between examples: compiling them is what takes the time."""
    yield
    gallery.trained.cache_clear()


def calls(code: str) -> set[str]:
    """The calls of plot functions in a piece of code, as text that does not depend on its layout."""
    found = [node for node in ast.walk(ast.parse(textwrap.dedent(code))) if isinstance(node, ast.Call)]
    return {ast.unparse(c) for c in found if isinstance(c.func, ast.Name) and c.func.id in PLOTTERS}


def code_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def images_of(text: str) -> set[str]:
    return set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text))


# ---- the gallery ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", gallery.EXAMPLES)
def test_example_draws_whole_pictures(number):
    pictures = dict(gallery.EXAMPLES[number](units=8, iterations=1))
    assert {f"{name}.png" for name in pictures} == {Path(i).name for i in images_of(SECTIONS[number])}
    for fig in pictures.values():
        assert isinstance(fig, Figure)
        assert fig.axes
        assert nothing_is_cut_off(fig)


def test_gallery_writes_what_it_prints(tmp_path, capsys):
    gallery.main(["2", "3", "--out", str(tmp_path / "new")])
    names = ["ex02-gradients.png", "ex03-curves.png", "ex03-heatmaps.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in told] == ["EX 2", "EX 3", "EX 3"]
    assert all(name in line for name, line in zip(names, told, strict=True))
    assert plt.get_fignums() == []


def test_gallery_draws_all_if_not_told_which(tmp_path, monkeypatch, capsys):
    few = {n: functools.partial(gallery.EXAMPLES[n], units=8, iterations=1) for n in (2, 7)}
    monkeypatch.setattr(gallery, "EXAMPLES", few)
    gallery.main(["--out", str(tmp_path)])
    assert [path.name[:4] for path in sorted(tmp_path.iterdir())] == ["ex02", "ex07"]
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("wrong", ["0", "15", "EX3", "-1", "2.0"])
def test_gallery_refuses_what_it_does_not_have(tmp_path, capsys, wrong):
    with pytest.raises(SystemExit):
        gallery.main(["2", wrong, "--out", str(tmp_path)])
    assert wrong in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_picture_files_keep_the_colours(tmp_path):
    fig, _ = see_rnn_like.features_2D(np.linspace(-1, 1, 300).reshape(3, 10, 10))
    fig.canvas.draw()
    drawn = np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(int)
    gallery.write(fig, tmp_path / "a.png")
    kept = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    assert kept.shape == drawn.shape
    assert np.abs(kept - drawn).max() <= 25


def test_training_goes_on_new_noise_every_40_iterations(monkeypatch):
    batches = []
    noise = gallery.noise
    monkeypatch.setattr(gallery, "noise", lambda *given: batches.append(noise(*given)) or batches[-1])
    network = gallery.trained(gallery.GRU, 2, 41)
    assert len(batches) == 3  # two to train on, one that it has not seen
    assert network.x is batches[-1][0]
    assert network.model.optimizer.iterations == 41
    assert not any(np.array_equal(network.x, x) for x, _ in batches[:-1])


# ---- the pages -----------------------------------------------------------------------------------


def test_every_example_has_its_section():
    assert list(SECTIONS) == list(gallery.EXAMPLES) == list(range(1, 15))


def test_page_gives_the_calls_that_made_the_pictures():
    told = {number: calls("\n".join(code_blocks(text))) for number, text in SECTIONS.items()}
    assert all(told.values())
    assert told == {number: calls(inspect.getsource(example)) for number, example in gallery.EXAMPLES.items()}


def test_page_lists_every_plot_function():
    table = PAGE.partition("## Conventions")[0]
    listed = set(re.findall(r"(?m)^\| `(\w+)` \|", table))
    assert listed == PLOTTERS


def test_conventions_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = PAGE.partition("## Conventions")[2].partition("## Gallery")[0]
    (code,) = code_blocks(section)
    names: dict = {}
    exec(code, names)  # a page of this repository
    assert names["axes"][0].shape == (2, 2)
    with Image.open(tmp_path / "heatmaps.png") as picture:
        assert picture.size == (1500, 1500)


def test_links_and_images_lead_somewhere():
    lost = [(page.name, target) for page in PAGES for target in targets_of(page) if not leads(page, target)]
    assert lost == []


def targets_of(page: Path) -> list[str]:
    """Where a page points to in this repository."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text)


def leads(page: Path, target: str) -> bool:
    """Whether there is such a file, and such a heading on it."""
    file, _, heading = target.partition("#")
    there = page.parent / file if file else page
    return there.exists() and (not heading or heading in anchors(there.read_text(encoding="utf-8")))


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes it."""
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_image_is_shown_somewhere():
    shown = {page.parent / image for page in PAGES for image in images_of(page.read_text(encoding="utf-8"))}
    assert {path.resolve() for path in IMAGES.iterdir()} <= {path.resolve() for path in shown}


def test_images_are_small():
    sizes = [path.stat().st_size for path in IMAGES.iterdir()]
    assert max(sizes) < 200_000
    assert sum(sizes) < 2_000_000
