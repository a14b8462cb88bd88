import pytest

from mrnn import threads
from mrnn.threads import cores, each, limit_cores


@pytest.mark.parametrize("threads", [1, 3, 100])
def test_each_keeps_the_order(threads):
    items = list(range(50, 0, -1))
    assert list(each(items, hex, threads)) == [hex(item) for item in items]


def test_nothing_to_do_is_nothing_done():
    assert list(each([], hex, 3)) == []


def test_threads_run_a_little_ahead_and_stop_when_closed():
    taken, done = [], []
    results = each((taken.append(i) or i for i in range(1000)), lambda i: done.append(i) or i, 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 3 + 4 * 2
    results.close()
    assert sorted(done) == taken
    assert len(taken) <= 3 + 4 * 2


def test_an_error_is_raised_where_its_item_stands():
    results = each([1, 2, 0, 4], lambda item: 8 // item, 2)
    assert [next(results), next(results)] == [8, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_there_is_a_core():
    assert cores() >= 1


def test_one_of_many_processes_uses_fewer_cores(monkeypatch):
    before = cores()
    monkeypatch.setattr(threads, "_most", None)
    limit_cores(1)
    assert cores() == 1
    limit_cores(before + 1)
    assert cores() == before
