import errno
import os
import stat

import pytest

from openslip import files


def test_replaces_whole(tmp_path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"a": [1, "é"]})
    files.write_json(path, {"a": 2})
    assert path.read_text() == '{\n "a": 2\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "x.txt"
    files.write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_whole_or_not(tmp_path):
    path = tmp_path / "a"
    with files.whole_or_not(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(TypeError), files.whole_or_not(path) as file:
        file.write(b"second"[: file.write(b"sec")] + None)  # type: ignore[operator]
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["a"]
    with files.whole_or_not(path) as one, files.whole_or_not(path) as other:  # as two processes would
        one.write(b"one")
        other.write(b"other")
    assert path.read_bytes() == b"one"
    assert not [p for p in path.parent.iterdir() if p.name.startswith(files.TEMPORARY)]


def test_opens_and_reads_regular_files_alone(tmp_path) -> None:
    path, pipe = tmp_path / "x.txt", tmp_path / "pipe"
    path.write_bytes(b"12345")
    assert files.read_whole(path, 5) == b"12345"
    with pytest.raises(OSError, match="more than 0 MB"):
        files.read_whole(path, 4)
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no regular file"):
        files.open_regular(pipe)
    with pytest.raises(IsADirectoryError):
        files.open_regular(tmp_path)
    with pytest.raises(OSError, match="no regular file"):
        files.open_regular("/dev/zero")
    if os.path.exists("/proc/self/status"):
        with pytest.raises(OSError, match="no regular file"):
            files.open_regular("/proc/self/status")


def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="pipe"):
            files.write_bytes(tmp_path / name, b"a page")
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_the_umask_decides_who_may_read_what_a_library_writes(tmp_path, umask) -> None:
    """Also where the library puts another file, which only its owner may read, in the place of the one named."""
    before = os.umask(umask)
    try:
        for path in (tmp_path / "new", tmp_path / "old"):
            if path.name == "old":
                path.write_bytes(b"")
                path.chmod(0o604)
            with files.usual_permissions(path):
                other = tmp_path / "of the library"
                other.touch(0o600)
                other.rename(path)
            assert stat.S_IMODE(path.stat().st_mode) == (0o666 & ~umask if path.name == "new" else 0o604)
    finally:
        os.umask(before)
