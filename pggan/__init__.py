"""Progressive Growing of GANs (Karras, Aila, Laine, Lehtinen, ICLR 2018, arXiv 1710.10196).

G = pggan.load("runs/faces-128")
images = G.sample(16, seed=0)     # uint8 [16, 3, 128, 128]
"""

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Importing torch takes seconds. In a command, let Ctrl-C during that time end the process without a traceback.
if Path("".join(sys.argv[:1])).stem in ("-m", "pggan"):  # under `python -m`, and the script that pip installs
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# In a clone, datasets, metrics and checkpoints lie beside this folder: import them as pggan.datasets and so on, because
# other projects have top-level packages of these names. The links in this folder lead type checkers and editors to
# them; Python goes past the links, which are text files on Windows and in torch.hub's downloads.
_clone = Path(__file__).resolve().parents[1]
if (_clone / "checkpoints" / "run_directory.py").exists():
    __path__.insert(0, str(_clone))

__all__ = ["Discriminator", "Generator", "load"]

if TYPE_CHECKING:
    from .networks import Discriminator, Generator
    from .use import load
else:

    def __getattr__(name: str) -> Any:
        """Import the networks and torch on first use: the workers and commands of pggan.datasets do without torch."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(".use" if name == "load" else ".networks", __name__), name)

    def __dir__() -> list[str]:
        """List the names that are imported on first use, too."""
        return sorted({*globals(), *__all__})
