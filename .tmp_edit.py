import re
p='tests/driver/test_fence.py'
s=open(p).read()
s=s.replace('''    def cancel(self, jobs: list[str]) -> None:
        """Take note."""
        self.cancelled += jobs
        if self.down:
            raise RuntimeError("a provider of a user's")
''','''    def cancel(self, jobs: list[str]) -> list[bool]:
        """Take note."""
        self.cancelled += jobs
        if self.down:
            raise RuntimeError("a provider of a user's")
        return [not self.refuses] * len(jobs)
''')
s=s.replace('''        self.down = False

    def cancel''','''        self.down = False
        self.refuses = False

    def cancel''')
s=s.replace('''def test_nothing_is_held_for_ever''','''def test_jobs_of_one_block_that_are_lost_one_by_one(item: Blocks) -> None:
    """Parsl tells of each lost job by itself: those that come while their block is being ended wait
    for its end as the first one does.
    """
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    item.blocks["0"].ended = True  # As those who count the blocks have it from now on.
    fence.hold("x", lambda: told.append("b"))
    fence.tick(item, 1.0)
    assert told == []
    item.provider.there.discard("100")
    fence.tick(item, 2.0)
    assert told == ["a", "b"]
    fence.hold("x", lambda: told.append("late"))
    fence.tick(item, 3.0)
    assert told == ["a", "b", "late"]
    assert item.provider.cancelled == ["100"]


def test_second_silent_block_is_ended_beside_the_first(item: Blocks) -> None:
    """All that is lost waits until none of the blocks that are being ended is there."""
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    item.executor.connected_managers = lambda: []  # type: ignore[attr-defined]
    fence.hold("x", lambda: told.append("b"))
    item.provider.there.discard("100")
    fence.tick(item, 1.0)
    assert (item.provider.cancelled, told) == (["100", "101"], [])
    item.provider.there.discard("101")
    fence.tick(item, 2.0)
    assert told == ["a", "b"]


def test_block_that_is_not_ended_is_asked_for_again(item: Blocks) -> None:
    """Where the batch system does not take the request, it is asked until it does."""
    item.provider.refuses = True
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    fence.tick(item, 1.0)
    item.provider.refuses = False
    fence.tick(item, 2.0)
    fence.tick(item, 3.0)
    assert (item.provider.cancelled, told) == (["100"] * 3, [])


def test_nothing_is_held_for_ever''')
s=s.replace('assert told == ["slow", "gone", "held", "ending", "late"]','assert told == ["slow", "gone", "ending", "held", "late"]')
open(p,'w').write(s)
