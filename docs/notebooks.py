"What a reader sees of a notebook: shared by the site (conf.py) and README.md (readme.py)."
import re

HIDDEN = re.compile(r"^#\| *(hide|default_exp)\b", re.MULTILINE)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)


def reader_cells(
    cells: list,  # the cells of a notebook, as in its JSON
) -> list:  # those a reader sees, without nbdev's directives
    "Leave out hidden and empty cells, and the `#|` lines of the others."
    kept = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            if HIDDEN.search(source):
                continue
            source = DIRECTIVE.sub("", source)
        if source.strip():
            kept.append({**cell, "source": source})
    return kept
