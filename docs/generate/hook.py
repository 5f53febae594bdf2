"""Adds the generated pages to the site; mkdocs calls these functions (`hooks` in mkdocs.yml)."""

from pathlib import Path

import reference_commands
import reference_configuration
import tutorial_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The reference pages, the tutorial's page and its notebook, none of which is committed."""
    source = (Path(config.docs_dir) / "tutorial.py").read_text(encoding="utf-8")
    generated = {
        "reference/configuration.md": reference_configuration.page(),
        "reference/commands.md": reference_commands.page(),
        "tutorial.md": tutorial_page.page(source),
        "tutorial.ipynb": tutorial_page.notebook(source),
    }
    for path, text in generated.items():
        files.append(File.generated(config, path, content=text))
    return files
