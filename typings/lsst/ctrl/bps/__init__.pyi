# lsst-ctrl-bps has no type information: for mypy, each of its names is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
