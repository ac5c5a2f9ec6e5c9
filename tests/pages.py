"""Code of the pages that doctest cannot run, as it stands there."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def block_with(words, page="in_your_loop.md"):
    """The only block without prompts, of a page, that has these words."""
    blocks = re.findall(r"^```text\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if words in block)
    return found
