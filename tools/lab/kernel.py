"""Debian's own kernel, downloaded and unpacked into the cache folder; nothing is installed."""

import dataclasses
import os
import subprocess
import tempfile
from pathlib import Path

from tools.lab.host import LabError, cache_folder, program

META_PACKAGE = "linux-image-amd64"


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package."""

    release: str
    image: Path
    modules: Path  # the folder lib/modules/RELEASE

    def module_files(self, names: list[str]) -> list[Path]:
        """Files of these modules and of all they need, in an order in which each can be loaded.

        A name that is not a module (built in, in this kernel) is left out.
        """
        needs = _dependencies(self.modules / "modules.dep")
        by_name = {Path(path).name.removesuffix(".ko").replace("-", "_"): path for path in needs}
        ordered: dict[str, None] = {}
        for name in names:
            path = by_name.get(name)
            if path is not None:
                # depmod lists what a module needs with the last to be loaded first.
                ordered |= dict.fromkeys([*reversed(needs[path]), path])
        return [self.modules / path for path in ordered]


def kernel() -> Kernel:
    """The newest kernel in the cache; the current one of Debian's archive when there is none.

    Raises LabError when it cannot be had.
    """
    unpacked = cache_folder() / "kernel"
    if not list(unpacked.glob("boot/vmlinuz-*")):
        _unpack(unpacked)
    image = max(unpacked.glob("boot/vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    release = image.name.removeprefix("vmlinuz-")
    return Kernel(release, image, unpacked / "lib/modules" / release)


def _unpack(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="unpacking-") as name:
        folder = Path(name)
        _download(folder)
        [package] = folder.glob("*.deb")
        _run([program("dpkg-deb"), "-x", str(package), "kernel"], folder)
        [modules] = folder.glob("kernel/lib/modules/*")
        _run([program("depmod"), "-b", "kernel", modules.name], folder)
        (folder / "kernel").rename(target)


def _download(folder: Path) -> None:
    """Fetch the package; where the lists are missing or old, bring them up to date once (which takes root)."""
    # As the user "_apt", apt could not write into a folder of ours.
    command = ["apt-get", "download", "--option", "APT::Sandbox::User=root"]
    try:
        _run([*command, _image_package()], folder)
    except LabError:
        if os.geteuid() != 0:
            raise
        _run(["apt-get", "--quiet", "update"], folder)
        _run([*command, _image_package()], folder)


def _image_package() -> str:
    """Name of the package that the archive's kernel meta package stands for."""
    output = _run(["apt-cache", "depends", "--no-recommends", META_PACKAGE], Path("/"))
    for line in output.splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise LabError(f"the package lists do not have {META_PACKAGE}; as root: apt-get update")


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed (as root: apt-get update): {done.stderr.strip()}")
    return done.stdout


def _dependencies(path: Path) -> dict[str, list[str]]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {module: needs.split() for module, _, needs in lines}
