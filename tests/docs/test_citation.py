"""docs/CITATION.cff says what pyproject.toml says."""

import tomllib

import yaml
from doc_blocks import ROOT


def test_it_describes_this_version() -> None:
    cited = yaml.safe_load((ROOT / "docs" / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["cff-version"] == "1.2.0"
    assert cited["title"] == project["name"]
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]
    assert cited["keywords"] == project["keywords"]
    assert cited["abstract"] == f"{project['description']}."


def test_it_names_authors_and_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "docs" / "CITATION.cff").read_text(encoding="utf-8"))
    (paper,) = cited["references"]
    assert cited["authors"] == [{"name": "The fastass maintainers"}]
    assert paper["title"].startswith("Alleviating Semantic-level Shift")
    assert all(person["given-names"] and person["family-names"] for person in paper["authors"])
