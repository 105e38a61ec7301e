"""The build backend: maturin, and before it the supervisor, a program of its own that the package carries.

See PEP 517 for the functions, and https://www.maturin.rs for what maturin does.
"""

import os
import shutil
import subprocess
from pathlib import Path

import maturin
from maturin import *  # noqa: F403

ROOT = Path(__file__).resolve().parents[2]
SUPERVISOR = "broody-supervisor"


def build_supervisor():
    cargo = ["cargo", "rustc", "--release", "--package", SUPERVISOR, "--", "-C", "strip=symbols"]
    subprocess.run(cargo, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    place = ROOT / "python/broody" / SUPERVISOR
    # Not over the old file: a program that runs from it cannot be written to.
    place.unlink(missing_ok=True)
    shutil.copy2(target / "release" / SUPERVISOR, place)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    build_supervisor()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    build_supervisor()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


if __name__ == "__main__":
    build_supervisor()
