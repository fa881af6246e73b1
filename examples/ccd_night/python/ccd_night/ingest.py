# SPDX-License-Identifier: BSD-3-Clause
"""Creation of the Butler repository from the FITS files of a night."""

from __future__ import annotations

__all__ = ["DATASET_TYPES", "RAW_TYPES", "create_repo", "ingest_frames", "ingest_truth"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astropy import units as u
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, Config, DatasetRef, DatasetType, FileDataset, Timespan

from .formatters import CcdFrameFormatter
from .frame import HeaderValue, read_header
from .instrument import NightCam

RAW_TYPES = {"bias": "raw_bias", "flat": "raw_flat", "science": "raw"}
"""Dataset type of the raw frames for each value of ``OBSTYPE``."""

DATASET_TYPES = {
    **dict.fromkeys(RAW_TYPES.values(), (("instrument", "detector", "exposure"), "CcdFrame")),
    "injected_stars": (("instrument", "detector"), "AstropyTable"),
}
"""Dimensions and storage class of each dataset type which is ingested."""


def create_repo(root: Path, config: Path) -> Butler:
    """Create an empty repository which knows the camera.

    Parameters
    ----------
    root : `pathlib.Path`
        Directory of the new repository.
    config : `pathlib.Path`
        Butler configuration to use besides the default one.

    Returns
    -------
    butler : `lsst.daf.butler.Butler`
        Butler which can write to the new repository.
    """
    Butler.makeRepo(str(root), config=Config(str(config)))
    butler = Butler.from_config(str(root), writeable=True)
    NightCam().register(butler.registry)
    for name, (dimensions, storage_class) in DATASET_TYPES.items():
        dataset_type = DatasetType(name, dimensions, storage_class, universe=butler.dimensions)
        butler.registry.registerDatasetType(dataset_type)
    return butler


def ingest_frames(butler: Butler, paths: Sequence[Path]) -> str:
    """Copy raw frames into the repository and record their exposures.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Butler which can write to the repository.
    paths : sequence of `pathlib.Path`
        FITS files of the frames.

    Returns
    -------
    run : `str`
        Collection which has the frames.
    """
    run = NightCam().makeDefaultRawIngestRunName()
    headers = [read_header(path) for path in paths]
    with butler.transaction():
        for header in {str(header["OBSID"]): header for header in headers}.values():
            _register_exposure(butler, header)
        datasets = [
            _file_dataset(butler, path, RAW_TYPES[str(header["OBSTYPE"])], _data_id(header), run)
            for path, header in zip(paths, headers, strict=True)
        ]
        butler.collections.register(run)
        butler.ingest(*datasets, transfer="copy")
    return run


def ingest_truth(butler: Butler, directory: Path) -> str:
    """Copy the tables of simulated stars into the repository.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Butler which can write to the repository.
    directory : `pathlib.Path`
        Directory which has the file ``stars_<detector>.ecsv`` of each detector.

    Returns
    -------
    run : `str`
        Collection which has the tables.
    """
    camera = NightCam()
    run = camera.makeCollectionName("truth")
    datasets = []
    for number in range(len(camera.detectors)):
        data_id = {"instrument": camera.getName(), "detector": number}
        path = directory / f"stars_{number}.ecsv"
        datasets.append(_file_dataset(butler, path, "injected_stars", data_id, run))
    butler.collections.register(run)
    butler.ingest(*datasets, transfer="copy")
    return run


def _file_dataset(butler: Butler, path: Path, name: str, data_id: Mapping[str, Any], run: str) -> FileDataset:
    """Describe a file as a dataset which can be ingested."""
    dataset_type = butler.get_dataset_type(name)
    ref = DatasetRef(dataset_type, butler.registry.expandDataId(data_id), run)
    formatter = CcdFrameFormatter if dataset_type.storageClass_name == "CcdFrame" else None
    return FileDataset(str(path.absolute()), ref, formatter=formatter)


def _data_id(header: Mapping[str, HeaderValue]) -> dict[str, Any]:
    """Return the data ID of the frame with a given header."""
    return {
        "instrument": header["INSTRUME"],
        "detector": header["DETECTOR"],
        "exposure": _exposure_id(header),
    }


def _exposure_id(header: Mapping[str, HeaderValue]) -> int:
    """Return an integer which identifies the exposure of a frame."""
    return int(header["DAYOBS"]) * 1000 + int(header["SEQNUM"])


def _register_exposure(butler: Butler, header: Mapping[str, HeaderValue]) -> None:
    """Insert the records of an exposure, its night and its group."""
    instrument, obs_id, day_obs = header["INSTRUME"], header["OBSID"], header["DAYOBS"]
    night = {"instrument": instrument, "id": day_obs, "timespan": _night_timespan(str(day_obs))}
    butler.registry.syncDimensionData("day_obs", night)
    butler.registry.syncDimensionData("group", {"instrument": instrument, "name": obs_id})
    on_sky = header["OBSTYPE"] == "science"
    exposure = {
        "instrument": instrument,
        "id": _exposure_id(header),
        "obs_id": obs_id,
        "physical_filter": header["FILTER"],
        "group": obs_id,
        "day_obs": day_obs,
        "exposure_time": header["EXPTIME"],
        "observation_type": header["OBSTYPE"],
        "seq_num": header["SEQNUM"],
        "target_name": header["OBJECT"],
        "has_simulated": True,
        "can_see_sky": on_sky,
        "timespan": Timespan(_time(header["DATE-BEG"]), _time(header["DATE-END"])),
    }
    butler.registry.syncDimensionData("exposure", exposure)


def _time(date: HeaderValue) -> Time:
    """Convert a date in a header, which is in TAI."""
    return Time(str(date), format="isot", scale="tai")


def _night_timespan(day_obs: str) -> Timespan:
    """Return the 24 hours from noon of a date (YYYYMMDD, TAI)."""
    begin = Time(f"{day_obs[:4]}-{day_obs[4:6]}-{day_obs[6:]}T12:00:00", format="isot", scale="tai")
    return Timespan(begin, begin + TimeDelta(1 * u.day))
