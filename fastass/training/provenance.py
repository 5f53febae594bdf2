"""How a run was made: when, by which command, from which commit of fastass."""

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, str | None]:
    """`finished` (UTC), `command`, and `commit`: None where it can't be known."""
    return {
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command(sys.argv),
        "commit": commit(),
    }


def command(argv: list[str]) -> str:
    """The command line of this process, as it can be typed again."""
    program, *words = argv or [""]
    named = Path(program).name
    if named in ("fastass", "__main__.py"):
        return shlex.join(["fastass", *words])
    return shlex.join(["python", program, *words])


def commit() -> str | None:
    """The commit of fastass's sources: of the checkout in use, or the one that pip installed."""
    return _of_checkout(PACKAGE) or _of_installation()


def _of_checkout(package: Path) -> str | None:
    """Of a folder that git tracks; `+` marks changes that are not committed."""
    git = ["git", "-C", str(package)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", "__init__.py"],
            check=True,
            capture_output=True,
            timeout=10,
        )
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True, timeout=10
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            check=True,
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or a slow disk
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _of_installation() -> str | None:
    try:
        text = distribution("fastass").read_text("direct_url.json")
        found = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (PackageNotFoundError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None
