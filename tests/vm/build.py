"""Makes what the guest is booted from: a kernel, an initial RAM disk, and the image of a small Debian.

usage: python -m tests.vm.build

All comes from Debian's packages and from the package index, through apt and pip as they are set up on this machine. It
is kept in `.venv/vm/KEY`, where KEY is made of everything that decides what is in it: the packages' versions, and the
files here. A folder is complete or not there; those of other keys are removed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
CACHE: Final = ROOT / ".venv" / "vm"
PACKAGES: Final = ("python3", "qemu-guest-agent", "hyperv-daemons", "kmod", "iproute2")
"""What the guest has beyond Debian's smallest system."""
PROGRAMS: Final = ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "cpio", "mke2fs", "gcc", "make", "dpkg", "chroot")
BUSYBOX: Final = Path("/bin/busybox")
"""Of busybox-static: the initial RAM disk has no libraries."""
MODULES: Final = ("drivers/char", "drivers/block", "drivers/virtio", "drivers/hv", "fs/fuse", "lib", "crypto")
"""The folders of the kernel's modules that the guest gets."""
BOOT_MODULES: Final = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
)
_LEFT_OUT: Final = ("doc", "man", "locale", "info")
_KERNEL: Final = "linux-image-cloud-amd64"
_WHEELS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_LIMIT: Final = 600.0
"""Seconds that any one program may take."""
_IN_GUEST: Final = "/opt/appvss"


class CannotBuild(Exception):
    """Something is missing; the text says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Images:
    """What a guest is booted from. Nothing here is written to by a guest.

    Args:
        folder: the folder of the cache.
        kernel_version: such as `6.1.0-57-cloud-amd64`.
    """

    folder: Path
    kernel_version: str

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.gz"

    @property
    def root(self) -> Path:
        """The root file system's image; booted with QEMU's `snapshot=on`."""
        return self.folder / "root.img"

    @property
    def tree(self) -> Path:
        """The same files as a folder, in which the guest's own programs can be run with chroot."""
        return self.folder / "root"

    @property
    def bus(self) -> Path:
        """The module that stands in for Hyper-V's bus."""
        return self.folder / "bus" / "hv_vmbus_stand_in.ko"

    @property
    def packages(self) -> Path:
        """What AppVSS depends on, for the guest's Python."""
        return self.folder / "packages"


def images() -> Images:
    """The images for the present versions and files, made if they are not there yet.

    Raises:
        CannotBuild: this machine cannot make them.
    """
    _check()
    version = kernel_version()
    folder = CACHE / _key(version)
    if not folder.exists():
        _make(Images(folder.with_suffix(".new"), version))
        folder.with_suffix(".new").rename(folder)
    for other in CACHE.iterdir():
        if other != folder:
            shutil.rmtree(other)
    return Images(folder, version)


def tools(images: Images, path: Path) -> None:
    """Make the image that is mounted at /opt/appvss in the guest: AppVSS as it is now, and what plays the rest.

    Everything is compiled by the guest's own Python, because software emulation makes that very slow.

    Args:
        images: the guest's.
        path: where the image is written.
    """
    folder = images.tree / _IN_GUEST.lstrip("/")
    shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "appvss", folder / "source" / "appvss", ignore=ignore)
    shutil.copytree(ROOT / "samples", folder / "samples", ignore=ignore)
    shutil.copytree(HERE / "guest", folder / "guest", ignore=ignore)
    shutil.copytree(images.packages, folder / "packages")
    shutil.copy(images.bus, folder)
    run(
        "chroot",
        str(images.tree),
        "python3",
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        _IN_GUEST,
    )
    _make_ext4(folder, path, "256M")
    shutil.rmtree(folder)
    folder.mkdir()


def kernel_version() -> str:
    """The version of Debian's present kernel for clouds, as the names of its packages have it.

    Raises:
        CannotBuild: apt knows none.
    """
    prefix = "linux-image-"
    for line in run("apt-cache", "depends", _KERNEL).splitlines():
        word, _, name = line.strip().partition(" ")
        if word == "Depends:" and name.startswith(prefix):
            return name.removeprefix(prefix)
    raise CannotBuild(f"apt knows no {_KERNEL}: use Debian 12 or newer, and run apt-get update")


def run(*command: str, cwd: Path | None = None) -> str:
    """A program that must succeed; what it has said to standard output.

    Raises:
        CannotBuild: it failed, with the last of what it said.
    """
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=_LIMIT, check=False
    )
    if done.returncode:
        raise CannotBuild(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _check() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise CannotBuild("the guest is made on Linux and for x86_64 alone")
    if os.geteuid() != 0:
        raise CannotBuild("the guest's file system can be made by root alone")
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    missing += [] if BUSYBOX.exists() else ["busybox-static"]
    if missing:
        raise CannotBuild(f"not installed: {', '.join(missing)} (sh scripts/setup vm)")
    headers = _headers(kernel_version())
    if not headers.exists():
        raise CannotBuild(f"{headers} is missing (sh scripts/setup vm)")


def _headers(version: str) -> Path:
    return Path(f"/usr/src/linux-headers-{version}")


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["cli"]]


def _key(version: str) -> str:
    """Which images these are."""
    wanted = run("apt-cache", "policy", f"linux-image-{version}", f"linux-headers-{version}", *PACKAGES)
    candidates = [line for line in wanted.splitlines() if "Candidate:" in line or not line.startswith(" ")]
    digest = hashlib.sha256(repr((version, candidates, _requirements(), _codename())).encode())
    for file in (Path(__file__), HERE / "guest" / "initrd-init", *sorted((HERE / "bus").iterdir())):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _codename() -> str:
    """The name of this machine's Debian, which is the guest's as well: apt's kernel must fit."""
    lines = Path("/etc/os-release").read_text().splitlines()
    found = [line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME=")]
    if not found:
        raise CannotBuild("/etc/os-release names no release of Debian")
    return found[0]


def _make(images: Images) -> None:
    shutil.rmtree(images.folder, ignore_errors=True)
    images.folder.mkdir(parents=True)
    with _told("the kernel"):
        kernel = _unpack_kernel(images)
    with _told("the bus that stands in for Hyper-V's"):
        _make_bus(images)
    with _told("a small Debian"):
        _make_tree(images)
    with _told("the packages that AppVSS depends on"):
        _fetch_packages(images)
    with _told("the images"):
        _make_initrd(images, kernel)
        _copy_modules(images, kernel)
        _finish_tree(images)
        _make_ext4(images.tree, images.root, "1G")
    shutil.rmtree(kernel)


@contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"vm: made {what} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _unpack_kernel(images: Images) -> Path:
    folder = images.folder / "kernel"
    folder.mkdir()
    run("apt-get", "download", "-q", f"linux-image-{images.kernel_version}", cwd=folder)
    (package,) = folder.glob("*.deb")
    run("dpkg", "-x", package.name, ".", cwd=folder)
    shutil.move(folder / "boot" / f"vmlinuz-{images.kernel_version}", images.kernel)
    return folder


def _make_bus(images: Images) -> None:
    folder = images.bus.parent
    shutil.copytree(HERE / "bus", folder)
    run("make", "-C", str(_headers(images.kernel_version)), f"M={folder}", "modules")
    run("strip", "-g", str(images.bus))


def _make_tree(images: Images) -> None:
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    options += ['--aptopt=Apt::Install-Recommends "false"', f"--include={','.join(PACKAGES)}"]
    run("mmdebstrap", "-q", "--variant=minbase", *options, _codename(), str(images.tree))


def _fetch_packages(images: Images) -> None:
    version = run(
        "chroot", str(images.tree), "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"
    ).strip()
    wheels = [option for name in _WHEELS for option in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-compile"]
    target = ["--target", str(images.packages), "--only-binary", ":all:", "--python-version", version, *wheels]
    run(*pip, *target, *_requirements())


def _copy_modules(images: Images, kernel: Path) -> None:
    source = kernel / "lib" / "modules" / images.kernel_version
    target = images.tree / "lib" / "modules" / images.kernel_version
    for name in MODULES:
        if (source / "kernel" / name).exists():
            shutil.copytree(source / "kernel" / name, target / "kernel" / name)
    for file in source.glob("modules.*"):
        if file.name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            shutil.copy(file, target)
    run("chroot", str(images.tree), "depmod", images.kernel_version)


def _make_initrd(images: Images, kernel: Path) -> None:
    folder = images.folder / "initrd"
    for name in ("bin", "modules", "new"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin")
    for name in BOOT_MODULES:
        (module,) = kernel.rglob(f"{name}.ko")
        shutil.copy(module, folder / "modules")
    shutil.copy(HERE / "guest" / "initrd-init", folder / "init")
    (folder / "init").chmod(0o755)
    run("sh", "-c", f"find . | cpio --quiet -o -H newc | gzip -1 > {images.initrd.name}.new", cwd=folder)
    shutil.move(folder / f"{images.initrd.name}.new", images.initrd)
    shutil.rmtree(folder)


def _finish_tree(images: Images) -> None:
    tree = images.tree
    for folder in ("data", _IN_GUEST.lstrip("/")):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    paths = "".join(f"{_IN_GUEST}/{name}\n" for name in ("packages", "source"))
    (tree / "usr" / "lib" / "python3" / "dist-packages" / "appvss.pth").write_text(paths)
    command = tree / "usr" / "local" / "bin" / "appvss"
    command.write_text("#!/usr/bin/python3\nfrom appvss.cli.main import main\n\nmain()\n")
    command.chmod(0o755)


def _make_ext4(folder: Path, image: Path, size: str) -> None:
    image.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(image), size)


if __name__ == "__main__":
    try:
        images()
    except CannotBuild as error:
        print(f"vm: {error}", file=sys.stderr)
        sys.exit(1)
