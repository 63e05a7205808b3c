"The site: every notebook is a page, shown with its stored outputs. Built by `make docs`."
import json
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from notebooks import reader_cells  # noqa: E402

# Reading order of the folders in the sidebar.
SECTIONS = ("examples", "objects", "solvers", "datasets", "dynamics", "models", "training", "evaluation", "audio",
            "experiments", "cli", "core", "utils")

parser = ConfigParser(delimiters=["="])
parser.read(HERE.parent / "settings.ini", encoding="utf-8")
project = parser["DEFAULT"]["title"]
author = parser["DEFAULT"]["author"]
copyright = parser["DEFAULT"]["copyright"]
release = parser["DEFAULT"]["version"]

extensions = ["myst_nb"]
exclude_patterns = ["**/.ipynb_checkpoints", "**/_*"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
# A link such as [scan](core/scan.ipynb#anchor) may name an anchor that only some renderers make.
suppress_warnings = ["myst.xref_missing", "myst.header", "mystnb.unknown_mime_type"]


def toctrees(
    folder: Path,  # the folder of the notebooks
) -> str:  # markdown, one hidden table of contents for each section that has pages
    "List the pages, section by section."
    trees = []
    for section in SECTIONS:
        pages = sorted(p.stem for p in (folder / section).glob("*.ipynb") if not p.name.startswith("_"))
        lines = "\n".join(f"{section}/{page}" for page in pages)
        if pages:
            trees.append(f"```{{toctree}}\n:hidden:\n:caption: {section.capitalize()}\n\n{lines}\n```")
    return "\n\n".join(trees)


def prepare(app, docname, source):
    "Show readers their part of the notebook; hang the table of contents under the first page."
    nb = json.loads(source[0])
    nb["cells"] = reader_cells(nb["cells"])
    nb["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}  # nbdev_clean takes it out
    if docname == "index":
        tree = toctrees(Path(app.srcdir))
        nb["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": tree})
    source[0] = json.dumps(nb)


def setup(app):
    "Sphinx calls this once."
    app.connect("source-read", prepare)
