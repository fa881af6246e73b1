#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Simulate a night with NightCam and put its frames into a new Butler repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent

try:
    from ccd_night.ingest import create_repo, ingest_frames, ingest_truth
    from ccd_night.simulate import simulate_night
except ModuleNotFoundError as error:
    sys.exit(
        f"make_repo.py: cannot import {error.name}.\n"
        f"Use the Python of the environment which has 'bps', with PYTHONPATH={HERE / 'python'}"
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Parameters
    ----------
    arguments : sequence of `str`, optional
        Arguments; by default those of the process.

    Returns
    -------
    options : `argparse.Namespace`
        Options ``directory`` (`pathlib.Path`) and ``seed`` (`int`).
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where to make the directories 'night' and 'repo'")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random numbers (default: 1)")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error("the seed must not be negative")
    for name in ("night", "repo"):
        if (options.directory / name).exists():
            parser.error(f"{options.directory / name} already exists; choose another directory")
    return options


def main() -> None:
    """Make the FITS files and the repository."""
    options = parse_arguments()
    night, root = options.directory / "night", options.directory / "repo"
    try:
        frames = simulate_night(night, options.seed)
        print(f"Wrote {len(frames)} raw frames to {night}")
        butler = create_repo(root, HERE / "repo_config.yaml")
        print(f"Made the Butler repository {root}")
        print(f"Ingested the frames into the collection {ingest_frames(butler, frames)}")
        print(f"Ingested the simulated stars into the collection {ingest_truth(butler, night)}")
    except OSError as error:
        sys.exit(f"make_repo.py: {error}")


if __name__ == "__main__":
    main()
