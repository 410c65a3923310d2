import json
import time
from pathlib import Path

import pytest

from tersor.core.errors import StorageError
from tersor.train import RunLog


def test_events_are_appended_as_lines_with_the_time(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "older"}\n')
    before = time.time()
    RunLog(path).write(event="epoch", label="größer", loss=0.5)
    RunLog(path).write(event="end")
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [event["event"] for event in events] == ["older", "epoch", "end"]
    assert events[1]["label"] == "größer"
    assert events[1]["loss"] == 0.5
    assert before - 0.01 <= events[1]["time"] <= time.time() + 0.01


def test_without_a_file_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunLog(None).write(event="epoch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: not Linux")
def test_a_full_disk_is_named():
    with pytest.raises(StorageError, match=r"/dev/full: cannot be written \(No space left"):
        RunLog(Path("/dev/full")).write(event="epoch")
