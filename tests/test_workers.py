import os
import subprocess
import sys

import pytest

from mrnn.workers import each

CHILD = """
from mrnn.workers import each
for pid in each(["__import__('os').getpid()"], eval, 1, workers=1):
    print(pid, flush=True)
    input()
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_each_keeps_the_order(workers):
    items = list(range(50, 0, -1))
    assert list(each(items, hex, 3, workers)) == [hex(item) for item in items]


def test_a_dead_worker_is_told():
    with pytest.raises(ValueError, match="worker process died"):
        list(each([3], os._exit, 1, workers=1))


def test_workers_end_with_a_killed_process():
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert int(process.stdout.readline()) != process.pid
        process.kill()
        # Its worker holds the other end of this pipe too.
        process.communicate(timeout=20)
