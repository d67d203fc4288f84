"""The version is written once, and what a release is made of names what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from local.process import ROOT
from service import __version__

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
FILES = {"npm": "package.json", "gomod": "go.mod", "docker": "Dockerfile"}
"""What dependabot looks for in a folder."""


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "service.__version__"}


def test_the_changelog_begins_with_this_version_and_is_short() -> None:
    versions = re.findall(r"(?m)^## (\S+), (\d{4}-\d{2}-\d{2}|not released yet)$", CHANGELOG)
    assert versions[0][0] == __version__
    assert len(versions) == CHANGELOG.count("\n## ")
    for text in re.split(r"(?m)^(?=## )", CHANGELOG)[1:]:
        assert len(text.splitlines()) <= 60


DATED = re.sub(r"(?m)^(## \S+), not released yet$", r"\1, 2026-12-01", CHANGELOG)
UNDATED = re.sub(r"(?m)^(## \S+), \d{4}-\d{2}-\d{2}$", r"\1, not released yet", CHANGELOG)


@pytest.mark.parametrize(
    ("tag", "changelog", "complaint"),
    [
        (f"v{__version__}", DATED, ""),
        ("v0.0.1", DATED, f"error: the tag is v0.0.1, service.__version__ is {__version__}\n"),
        (f"v{__version__}", UNDATED, f"error: CHANGELOG.md has no date for {__version__}\n"),
    ],
    ids=["released", "another version", "no date"],
)
def test_a_tag_is_refused_unless_it_is_the_version_and_the_changelog_has_its_date(
    tmp_path: Path, tag: str, changelog: str, complaint: str
) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    (check,) = [
        step["run"] for step in workflow["jobs"]["image"]["steps"] if step.get("name") == "the tag is the version"
    ]
    (tmp_path / "service").mkdir()
    shutil.copy(ROOT / "service" / "__init__.py", tmp_path / "service")
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    env = {**os.environ, "GITHUB_REF_NAME": tag, "GITHUB_ENV": str(tmp_path / "env"), "IMAGE": "ghcr.io/Owner/Name"}
    done = subprocess.run(["bash", "-ec", check], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (int(bool(complaint)), complaint)
    if not complaint:
        assert (tmp_path / "env").read_text() == f"IMAGE=ghcr.io/owner/name\nVERSION={__version__}\n"


@pytest.mark.parametrize("ecosystem", FILES)
def test_dependabot_looks_where_there_is_something(ecosystem: str) -> None:
    config = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    (update,) = [each for each in config["updates"] if each["package-ecosystem"] == ecosystem]
    left_out = {"node_modules", ".venv", "cdk.out"}
    found = {
        "/" + ("" if path.parent == ROOT else path.parent.relative_to(ROOT).as_posix())
        for path in ROOT.rglob(FILES[ecosystem])
        if not left_out & set(path.relative_to(ROOT).parts)
    }
    assert set(update["directories"]) == found


def test_each_decision_has_a_date_and_a_status_which_the_index_repeats() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    for page in sorted((ROOT / "docs" / "adr").glob("0*.md")):
        lines = page.read_text().splitlines()
        found = re.fullmatch(r"# (\d+)\. (.+)", lines[0])
        told = re.fullmatch(r"Date: (\d{4}-\d{2}-\d{2})\. Status: (.+)\.", lines[2])
        assert found, page.name
        assert told, f"{page.name} has no line `Date: YYYY-MM-DD. Status: accepted.` after its title"
        assert f"| {found[1]} | [{found[2]}]({page.name}) | {told[1]} | {told[2]} |" in index


YAML = [".pre-commit-config.yaml", *(str(path.relative_to(ROOT)) for path in (ROOT / ".github").rglob("*.yml"))]


@pytest.mark.parametrize("name", YAML)
def test_the_make_targets_and_programs_of_ci_and_hooks_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    assert yaml.safe_load(text)
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:run|entry): make (?:--silent )?([a-z-]+)", text)) <= targets
    for module in re.findall(r"python -m (operations[\w.]*)", text):
        assert (ROOT / module.replace(".", "/")).is_dir(), module


def test_ci_runs_every_python_that_is_supported() -> None:
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert ci["jobs"]["check"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11,<3.15"
