"""Links of a page: open in Colab, download, edit, report an error. They stand in its head and at its foot.

The theme's own buttons are menus that need a script; these also work without one.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydata_sphinx_theme.utils import get_theme_options_dict
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

COLAB = "https://colab.research.google.com/github/"
GITHUB = "https://github.com/"


def add_links(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    suffix = context.get("page_source_suffix")
    if not suffix:  # search, index: no text of ours
        return
    options = get_theme_options_dict(app)
    home, branch = options["repository_url"].rstrip("/"), options["repository_branch"]
    source = f"{pagename}{suffix}"
    links = []
    if suffix == ".ipynb":
        colab = f"{COLAB}{home.removeprefix(GITHUB)}/blob/{branch}/{source}"
        notebook = context["pathto"](f"_sources/{context['sourcename']}", 1)
        links = [
            ("colab", "Open in Colab", colab, "Run this chapter on Google Colab"),
            ("notebook", "Download", notebook, "Download this chapter as a notebook"),
        ]
        # A chapter is edited where it reads as text: in its module, the notebook's other view.
        source = f"ddpm_nb/{Path(pagename).name}.py"
    error = f"{home}/issues/new?" + urlencode({"title": f"Error on the page {Path(pagename).name}: "})
    links += [
        ("edit", "Edit", f"{home}/edit/{branch}/{source}", "Propose a change to this page on GitHub"),
        ("report", "Report an error", error, "Tell us what is wrong on this page"),
    ]
    keys = ("label", "text", "url", "tooltip")
    context["book_links"] = [dict(zip(keys, link, strict=True)) for link in links]
    context["header_buttons"] += [{"type": "link", **link} for link in context["book_links"]]


def setup(app: Sphinx) -> ExtensionMetadata:
    # After the theme, which starts the list of buttons at 501.
    app.connect("html-page-context", add_links, priority=510)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
