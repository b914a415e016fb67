"""Hooks of MkDocs for what lies outside docs/: links work on the site as they do in the repository.

README.md is the site's first page; other pages keep their paths, and a linked file of another kind becomes a page of
its text. The reference is made from docstrings. The notebook gets its pictures where `make site` has executed it.
"""

import re
from dataclasses import fields
from html import escape
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import bnrecal

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "build" / "quickstart.ipynb"
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "src/bnrecal/nbsmt/engines/cpu/README.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, the files that pages link to, and the reference."""
    inside = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
    for path in PAGES:
        files.append(File.generated(config, site_path(path), content=(ROOT / path).read_text()))
    for path in sorted({target for page in [*PAGES, *inside] for target in linked_files(page)}):
        if files.get_file_from_path(site_path(path)) is None:
            files.append(File.generated(config, site_path(path), content=listing(path)))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Return the page with its links as the site needs them."""
    own = page.file.src_uri
    source = "README.md" if own == "index.md" else own if own in PAGES else f"docs/{own}"
    if source == "docs/quickstart.md" and NOTEBOOK.exists():
        markdown = with_outputs(nbformat.reads(NOTEBOOK.read_text(), as_version=4))

    def link(match: re.Match[str]) -> str:
        target = repository_path(source, match[1])
        if target is None:
            return match[0]
        return f"]({relpath(site_path(target), dirname(own) or '.')}{match[2] or ''})"

    return LINK.sub(link, markdown)


def repository_path(page: str, target: str) -> str | None:
    """Return where a link of a page leads in the repository, None if to no file there."""
    path = normpath(join(dirname(page), target))
    return path if ":" not in target and (ROOT / path).is_file() else None


def site_path(path: str) -> str:
    """Return where a file of the repository lies in the site's sources."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"{path}.md"


def linked_files(page: str) -> list[str]:
    """Files outside docs/ that a page links to."""
    targets = [repository_path(page, match[1]) for match in LINK.finditer((ROOT / page).read_text())]
    return [target for target in targets if target is not None and not target.startswith("docs/")]


def listing(path: str) -> str:
    """Return a page that shows the text of a file."""
    language = Path(path).suffix.removeprefix(".")
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text()}````\n"


def reference() -> str:
    """Return the page of every public name; MkDocs fills in signatures and docstrings."""
    parts = ["# Reference", "Every name of `import bnrecal`, from its docstring."]
    for name in bnrecal.__all__:
        schema = getattr(bnrecal, name)
        parts.append(f"::: {schema.__module__}.{name}")
        if name.endswith("Config"):
            parts += ["    options:\n      show_signature: false", settings(schema)]
    return "\n".join(parts).replace("\n:::", "\n\n:::")


def settings(schema: type[Any]) -> str:
    """Return a table of the settings of a schema: name, default, meaning. Those that are schemas have their own."""
    rows = ["\n\n| setting | default | |\n|---|---|---|"]
    for field in fields(schema):
        if "help" in field.metadata:
            default = field.default_factory() if callable(field.default_factory) else field.default
            meaning = field.metadata["help"].replace("|", "\\|")
            rows.append(f"| `{field.name}` | `{default!r}` | {meaning} |")
    return "\n".join(rows)


def with_outputs(notebook: Any) -> str:
    """Return an executed notebook as a page: its cells, each with what it showed."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```")
            parts += [shown(output) for output in cell.outputs]
    return "\n\n".join(parts)


def shown(output: Any) -> str:
    """Return what a cell showed: a picture, a table or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        return str(data["text/html"]).replace(' class="dataframe"', "")  # the theme styles tables without a class
    return f"<pre>{escape(output.get('text') or data['text/plain'])}</pre>"
