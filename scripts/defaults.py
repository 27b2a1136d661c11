"""What the training scripts do where nothing is said: which preset, and which data."""

import shutil
import subprocess
from pathlib import Path

EMBEDDED_DATA = "runs/data/dashsim"


def default_preset() -> str:
    """`small` with a GPU, `demo` without; asked of the driver, since importing torch would take seconds."""
    if shutil.which("nvidia-smi") is None:
        return "demo"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "small" if "GPU 0" in listed.stdout else "demo"


def ensure_data(folder: str) -> None:
    """Make the embedded driving world's data if `folder` is the default one and nothing is there yet."""
    if folder != EMBEDDED_DATA or Path(folder).exists():
        return
    import prepare_data

    from data.sources import source

    print(f"{folder} is missing: making it with scripts/prepare_data.py dashsim")
    dashsim = source("dashsim")
    prepare_data.prepare("dashsim", dashsim, dashsim.config(), prepare_data.Target())
