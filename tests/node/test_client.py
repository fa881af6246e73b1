# SPDX-License-Identifier: BSD-3-Clause
"""A client whose connection to its runner breaks, or is slow."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from lsst.ctrl.bps.parsl.node.client import RunnerClient
from node.test_runner import Node, beside
from node.test_runner import node as node  # a fixture
from support.warm import wait_until

REFUSED = 20_000
"""Jobs whose replies are more than a socket takes that nobody reads from."""


@pytest.mark.parametrize("how", ["run", "kill"])
def test_jobs_are_lost_when_they_have_ended(node: Node, how: str) -> None:
    """Where a request cannot be sent any more, its jobs are lost when their processes are gone."""
    held, fifo = node.begin_held("trap '' TERM")
    node.client._socket.shutdown(socket.SHUT_WR)
    if how == "run":
        assert set(node.run("/bin/true")) == {"lost"}
    else:
        node.client.kill(60.0, 100)
    assert set(held.result(60)) == {"lost"}
    assert [process for process in node.left() if process.pid == fifo.pid] == []
    assert not node.client.alive


def test_replies_on_their_way_count(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that had been sent before the connection broke is the job's, and the others are lost."""
    ours, runner = socket.socketpair()
    monkeypatch.setattr(RunnerClient, "_own", lambda self: ours)
    with runner:
        held = [node.begin("/bin/true") for _ in range(2)]
        with runner.makefile("rb") as stream:
            requests = [json.loads(stream.readline()) for _ in range(3)]
        runner.sendall(json.dumps({"key": requests[1]["key"], "exit": 0}).encode() + b"\n")
        runner.shutdown(socket.SHUT_RDWR)
        assert set(node.run("/bin/true")) == {"lost"}
    results = [future.result(60) for future in held]
    assert sorted(map(list, results)) == [["exit"], ["lost"]]


def test_reader_does_not_wait_for_who_sends(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies are read while the runner does not take a request: it may be waiting for that."""
    ours, runner = socket.socketpair()
    monkeypatch.setattr(RunnerClient, "_own", lambda self: ours)
    with runner:
        first = node.begin("/bin/true")
        with runner.makefile("rb") as stream:
            _, request = (json.loads(stream.readline()) for _ in range(2))
        large = node.begin("x" * 10_000_000)
        # It has begun to be sent.
        runner.recv(1)
        runner.sendall(json.dumps({"note": "of this node"}).encode() + b"\n")
        runner.sendall(json.dumps({"key": request["key"], "exit": 0}).encode() + b"\n")
        assert first.result(60) == {"exit": 0, "note": "of this node"}
    assert set(large.result(60)) == {"lost"}


def test_runner_that_ends_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that ends before it has heard of anything loses its jobs, and no more."""
    ours, runner = socket.socketpair()
    runner.close()
    monkeypatch.setattr(RunnerClient, "_own", lambda self: ours)
    assert set(beside(lambda: node.client.run(node.spec("/bin/true"))).result(60)) == {"lost"}


def test_runner_does_not_wait_for_who_does_not_read(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped worker that leaves replies unread keeps no job from its walltime, and gets them all when
    it goes on.
    """
    begin_reading, serve = threading.Event(), RunnerClient._serve

    def serve_later(client: RunnerClient) -> None:
        begin_reading.wait()
        serve(client)

    monkeypatch.setattr(RunnerClient, "_serve", serve_later)
    node.client._send({"kill": 0, "upto": REFUSED})
    node.begin_held(n=REFUSED + 1, walltime=0.1)
    keys = [f"{number}.1" for number in range(100, 100 + REFUSED)]
    refused = {key: Future[dict[str, Any]]() for key in keys}
    node.client._waiting |= refused
    for number, key in enumerate(keys):
        node.client._send({"n": number, "key": key, "j": number, "a": 1})
    try:
        wait_until(lambda: [event for event in node.events() if event["e"] == "end"], 60)
    finally:
        begin_reading.set()
    assert {str(future.result(60)["lost"]) for future in refused.values()} == {"ended before it was started"}
