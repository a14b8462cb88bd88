import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from mrnn.files import atomic_path, write_atomically, write_json


def test_a_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError("the disk is full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json"), atomic_path(tmp_path / "a.json"):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match=r"a\.json: cannot be written"), atomic_path(tmp_path / "a.json"):
        raise SafetensorError("I/O error: No space left on device")
    with pytest.raises(FileNotFoundError, match="another"), atomic_path(tmp_path / "a.json"):
        (tmp_path / "another").read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists: .*file"):
        write_json(tmp_path / "file" / "b.json", {})


def test_what_a_killed_writer_left_is_removed_by_the_next_process(tmp_path):
    write = f"from mrnn.files import *; import os\nwith atomic_path({str(tmp_path / 'a.json')!r}) as path: "
    subprocess.run([sys.executable, "-c", write + "os._exit(1)"], check=False)
    (left,) = tmp_path.iterdir()
    assert left.is_dir() and left.name.startswith(".a.json.")
    with atomic_path(tmp_path / "b.json"):  # nobody's yet, and not for a process that runs
        others = [p.name for p in tmp_path.iterdir()]
        assert left.name not in others and len(others) == 1
        subprocess.run([sys.executable, "-c", write + "pass"], check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_link_stays_and_what_it_points_at_is_replaced(tmp_path):
    link, target = tmp_path / "link.json", tmp_path / "elsewhere" / "target.json"
    link.symlink_to(target)
    write_json(link, [1])
    write_json(link, [2])
    assert link.is_symlink() and target.read_text() == "[\n  2\n]\n"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644)])
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path, umask, mode):
    def saved(path):
        with atomic_path(path) as temporary:
            temporary.unlink()  # as writers that make a file of their own do
            temporary.write_bytes(b"x")
            temporary.chmod(0o666)

    before = os.umask(umask)
    try:
        for _ in range(2):  # the second time there is a file already
            write_atomically(tmp_path / "a.txt", b"x")
            write_json(tmp_path / "a.json", {})
            saved(tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in tmp_path.iterdir()}
    assert modes == {f"a.{kind}": oct(mode) for kind in ("txt", "json", "safetensors")}


def test_what_is_no_file_is_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_json(pipe, {})
    assert os.read(reader, 99) == b"{}\n"
    os.close(reader)
    assert list(tmp_path.iterdir()) == [pipe] and not pipe.is_file()
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        write_json(tmp_path, {})
