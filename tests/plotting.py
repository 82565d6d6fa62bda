"""The plot scripts as modules."""

import sys
from functools import lru_cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

PLOT = Path(__file__).resolve().parent.parent / "plot"
SCRIPTS = sorted(p.stem for p in PLOT.glob("[!_]*.py"))
sys.path.append(str(PLOT))


@lru_cache
def script(name: str) -> ModuleType:
    """A plot script; a command has the name ``ablation``, too."""
    if name != "ablation":
        return import_module(name)
    spec = spec_from_file_location(f"plot_{name}", PLOT / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
