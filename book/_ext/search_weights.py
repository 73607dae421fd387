"""The weights of the site's search, which stand in search_weights.js."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata


def name_scorer(app: Sphinx, config: Any) -> None:
    """Sphinx would look for the file where the build was started; it is beside this one."""
    config.html_search_scorer = str(Path(__file__).with_name("search_weights.js"))


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("config-inited", name_scorer)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
