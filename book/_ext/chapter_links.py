"""Put "Open in Colab" and "Notebook" on every page that is a notebook, as plain links.

The theme's own buttons are menus that need a script; these two also work without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydata_sphinx_theme.utils import get_theme_options_dict

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

COLAB = "https://colab.research.google.com/github/"
GITHUB = "https://github.com/"


def add_links(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    if context.get("page_source_suffix") != ".ipynb":
        return
    options = get_theme_options_dict(app)
    repository = options["repository_url"].removeprefix(GITHUB).strip("/")
    branch = options["repository_branch"]
    context["header_buttons"] += [
        {
            "type": "link",
            "text": "Open in Colab",
            "url": f"{COLAB}{repository}/blob/{branch}/{pagename}.ipynb",
            "tooltip": "Run this chapter on Google Colab",
            "label": "colab",
        },
        {
            "type": "link",
            "text": "Notebook",
            "url": context["pathto"](f"_sources/{context['sourcename']}", 1),
            "tooltip": "Download this chapter as a notebook",
            "label": "notebook",
        },
    ]


def setup(app: Sphinx) -> ExtensionMetadata:
    # After the theme, which starts the list of buttons at 501.
    app.connect("html-page-context", add_links, priority=510)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
