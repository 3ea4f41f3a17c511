"""`usbbridge demo`, run as a user would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

SECONDS = 60


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "usbbridge", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, **environment},
        check=False,
    )


def test_the_demo_tells_every_step_and_ends_well() -> None:
    result = demo("--size", "4")
    assert (result.returncode, result.stderr) == (0, "")
    for step in ("linked", "device", "capacity", "reading", "sha256      equal", "read back   equal", "detached"):
        assert f"\n  {step}" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Everything was right: 4 MiB at ")
    assert "\x1b" not in result.stdout


def test_the_demo_speaks_json() -> None:
    result = demo("--size", "1", "--json")
    told = json.loads(result.stdout)
    assert result.returncode == 0
    assert (told["ok"], told["error"], told["bytes"]) == (True, None, 1 << 20)
    assert told["bytes_per_second"] > 0
    assert {"linked", "device", "read", "sha256", "detached"} <= {step["step"] for step in told["steps"]}


def test_a_demo_that_fails_says_why_and_ends_with_1(tmp_path: Path) -> None:
    """An attach command that can't even start: its module is shadowed by one that ends at once."""
    package = tmp_path / "usbbridge"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("raise SystemExit('no such thing here')")
    source = (
        "import os, sys; from usbbridge.cli.main import main; "
        "os.environ['PYTHONPATH'] = sys.argv[1]; sys.exit(main(['demo']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}"},
        check=False,
    )
    assert result.returncode == 1
    assert "no device in the VM" in result.stderr
    assert "no such thing here" in result.stderr
