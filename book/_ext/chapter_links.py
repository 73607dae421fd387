"""Links of a page: open in Colab, download, edit, report an error. They stand in its head and at its foot.

The theme's own buttons are menus that need a script; these also work without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

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
    suffix = context.get("page_source_suffix")
    if not suffix:  # search, index: no text of ours
        return
    options = get_theme_options_dict(app)
    home = options["repository_url"].rstrip("/")
    repository, branch = home.removeprefix(GITHUB), options["repository_branch"]
    links = []
    # A chapter is edited where it reads as text: in its module, the notebook's other view.
    source = f"{pagename}{suffix}"
    if suffix == ".ipynb":
        source = f"ddpm_nb/{Path(pagename).name}.py"
        links = [
            (
                "colab",
                "Open in Colab",
                f"{COLAB}{repository}/blob/{branch}/{pagename}.ipynb",
            ),
            (
                "notebook",
                "Download",
                context["pathto"](f"_sources/{context['sourcename']}", 1),
            ),
        ]
    error = urlencode({"title": f"Error on the page {Path(pagename).name}: "})
    links += [
        ("edit", "Edit", f"{home}/edit/{branch}/{source}"),
        ("report", "Report an error", f"{home}/issues/new?{error}"),
    ]
    tooltips = {
        "colab": "Run this chapter on Google Colab",
        "notebook": "Download this chapter as a notebook",
        "edit": "Propose a change to this page on GitHub",
        "report": "Tell us what is wrong on this page",
    }
    context["header_buttons"] += [
        {
            "type": "link",
            "text": text,
            "url": url,
            "tooltip": tooltips[label],
            "label": label,
        }
        for label, text, url in links
    ]
    context["book_links"] = links


def setup(app: Sphinx) -> ExtensionMetadata:
    # After the theme, which starts the list of buttons at 501.
    app.connect("html-page-context", add_links, priority=510)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
