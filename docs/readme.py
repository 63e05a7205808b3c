"Write README.md from nbs/index.ipynb. With `--out DIRECTORY`, write it there instead."
import argparse
import json
import os
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from notebooks import reader_cells

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\(|src=\")(?![a-z]+:|#|/)([^)\"\s]+)")


def from_root(
    markdown: str,  # text whose links start from nbs/
) -> str:  # the same text, its links starting from the root of the repository
    "Rewrite relative links and image sources."
    return LINK.sub(lambda m: m[1] + os.path.normpath("nbs/" + m[2]), markdown)


def build(
    out: Path,  # the folder that gets README.md and docs/images/
) -> None:
    "Convert the notebook; pictures among its outputs become files."
    nb = nbformat.read(ROOT / "nbs/index.ipynb", as_version=4)
    nb["cells"] = reader_cells(nb["cells"])
    nb["metadata"]["language_info"] = {"name": "python"}  # nbdev_clean drops it; code blocks are coloured by it
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = from_root(cell["source"])
        else:  # sound does not play in a README
            cell["outputs"] = [o for o in cell["outputs"] if "<audio" not in json.dumps(o)]
    resources = {"output_files_dir": "docs/images", "unique_key": "readme"}
    body, resources = MarkdownExporter().from_notebook_node(nbformat.from_dict(nb), resources)
    files = {"README.md": (body.strip() + "\n").encode(), **resources["outputs"]}
    for name, data in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT)
    build(parser.parse_args().out)
