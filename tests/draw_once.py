"""Draw one made-up run in a process of its own: draw_once.py FILE. Says what drawing left behind.

The process looks like a user's: its MPLBACKEND, its matplotlibrc (MATPLOTLIBRC) and its locale
are what they are when it starts, and have to be so when it ends.
"""

from __future__ import annotations

import locale
import os
import sys
import warnings
from pathlib import Path
from unittest import mock

from made_runs import made_run

from compfast.report import phase

if __name__ == "__main__":
    before = dict(os.environ), locale.setlocale(locale.LC_ALL), list(warnings.filters)
    with mock.patch.object(phase, "_DPI", 50):
        Path(sys.argv[1]).write_bytes(phase.phase_png(made_run([0.1, 0.5, 0.9], 2)))
    after = dict(os.environ), locale.setlocale(locale.LC_ALL), list(warnings.filters)
    if before != after:
        sys.exit(f"changed: {before}, {after}")
    if "matplotlib.pyplot" in sys.modules:
        sys.exit("pyplot was imported, which settles the backend")
    import matplotlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = matplotlib.rc_params()
    changed = [k for k in fresh if k != "backend" and fresh[k] != matplotlib.rcParams[k]]
    if changed:
        sys.exit(f"settings changed: {changed}")
    backend = dict.__getitem__(matplotlib.rcParams, "backend")  # asking the object would choose one
    print(backend if isinstance(backend, str) else None)
