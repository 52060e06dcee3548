"""What waits, as several event loops count it at once."""

import threading

from fledge.engine.admission import Tally


def test_who_waits_is_told_as_it_was_whoever_comes_and_goes_meanwhile() -> None:
    tally = Tally()
    tally.add("a", 3)
    told = tally.by_tenant()
    tally.add("b", 4)
    tally.add("a", -3)
    assert told == {"a": 3}
    assert (tally.by_tenant(), tally.total) == ({"b": 4}, 4)


def test_it_can_be_gone_through_beside_other_threads() -> None:
    tally, is_over = Tally(), threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            for number in range(100):
                with tally.holding(str(number), 1):
                    pass

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2000):
            assert sum(tokens for _, tokens in tally.by_tenant().items()) <= len(threads)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert (tally.by_tenant(), tally.total) == ({}, 0)
