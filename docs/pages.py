"""What MkDocs does to the pages of this directory, so that they can be read in the repository too.

- A link to a file outside docs/ is a link within the site: CONTRIBUTING.md and LOG.md are pages of it, modules are in the
  reference, and other files, such as those in results/, are copied into it. A link to a directory is plain text.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = "docs"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "LOG.md": "log.md"}  # from outside docs/
COPIES = "repository"  # where other files lie in the site
REFERENCE = re.compile(r"^::: (tinydigits[\w.]*)$", re.MULTILINE)

_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z]+:|#|//")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the files from outside docs/."""
    for source, target in PAGES.items():
        if source != "README.md":  # the site has a first page of its own
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for page in files.documentation_pages():
        for path in _linked(page.content_string, source_of(page.src_uri)):
            copy = site_path(path) or ""
            if copy.startswith(f"{COPIES}/") and files.get_file_from_path(copy) is None:
                files.append(File.generated(config, copy, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn every link to a file of the repository into one within the site."""
    source = source_of(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def relinked(mark: str, text: str, path: str, fragment: str) -> str:
        target = site_path(path)
        if target is None:
            return text
        target, _, anchor = target.partition("#")
        anchor = f"#{anchor}" if anchor else fragment
        return f"{mark}[{text}]({posixpath.relpath(target, here or '.')}{anchor})"

    return relink(markdown, source, relinked)


def source_of(page: str) -> str:
    """A page's path in the repository."""
    return next(
        (source for source, target in PAGES.items() if target == page and target != "index.md"), f"{DOCS}/{page}"
    )


def site_path(path: str) -> str | None:
    """A repository path's path in the site, with an anchor for a module; None for a directory."""
    if path in PAGES:
        return PAGES[path]
    if (ROOT / path).is_dir():
        path = f"{path}/README.md"
        if not (ROOT / path).exists() or not path.startswith(f"{DOCS}/"):
            return None
    if path.startswith(f"{DOCS}/"):
        return path.removeprefix(f"{DOCS}/")
    if path.startswith("src/") and path.endswith(".py"):
        module = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        for page in sorted((ROOT / DOCS / "reference").glob("*.md")):
            if module in REFERENCE.findall(page.read_text(encoding="utf-8")):
                return f"reference/{page.name}#{module}"
    return f"{COPIES}/{path}"


def relink(markdown: str, source: str, replaced: Callable[[str, str, str, str], str]) -> str:
    """Give each link to a file of the repository, outside of code, to `replaced`.

    `replaced` takes the mark (`!` for a picture), the text, the path from the repository's root, and the fragment.
    """

    def each(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        if _ELSEWHERE.match(target):
            return link[0]
        file, sharp, fragment = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
        return replaced(mark, text, path, sharp + fragment)

    pieces = _FENCE.split(markdown)
    return "".join(piece if piece.startswith("```") else _LINK.sub(each, piece) for piece in pieces)


def _linked(markdown: str, source: str) -> Iterator[str]:
    """The paths of all linked files of the repository."""
    paths: list[str] = []

    def note(_mark: str, _text: str, path: str, _fragment: str) -> str:
        paths.append(path)
        return ""

    relink(markdown, source, note)
    yield from paths
