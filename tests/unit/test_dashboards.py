"""`pg-kafka dashboards` writes two files, and leaves what somebody has changed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from pg_kafka import cli
from pg_kafka.dashboards import alerts, files, overview
from pg_kafka.errors import FatalError


def written(folder: Path, *, replace: bool = False) -> dict[str, str]:
    return {one.path.name: one.what for one in files.write(folder, replace=replace)}


def test_both_files_are_made_and_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert written(folder) == {files.DASHBOARD: "made", files.ALERTS: "made"}
    assert json.loads((folder / files.DASHBOARD).read_text()) == overview.dashboard()
    for rule in alerts.RULES:
        assert f"alert: {rule.name}\n" in (folder / files.ALERTS).read_text()
    assert written(folder) == {files.DASHBOARD: "same", files.ALERTS: "same"}


def test_a_file_that_was_changed_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    written(tmp_path)
    changed = (tmp_path / files.ALERTS).read_text().replace("> 300", "> 60")
    (tmp_path / files.ALERTS).write_text(changed)
    assert written(tmp_path) == {files.DASHBOARD: "same", files.ALERTS: "kept"}
    assert (tmp_path / files.ALERTS).read_text() == changed
    assert written(tmp_path, replace=True) == {files.DASHBOARD: "same", files.ALERTS: "replaced"}
    assert (tmp_path / files.ALERTS).read_text() == files.contents()[files.ALERTS]


def test_half_a_file_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    (tmp_path / files.ALERTS).write_text("changed")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FatalError, match="No space left on device"):
        files.write(tmp_path, replace=True)
    assert (tmp_path / files.ALERTS).read_text() == "changed"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files.contents())


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / files.ALERTS).symlink_to(tmp_path / "elsewhere" / "rules.yml")
    assert written(tmp_path)[files.ALERTS] == "made"
    assert (tmp_path / files.ALERTS).is_symlink()
    assert (tmp_path / "elsewhere" / "rules.yml").read_text() == files.contents()[files.ALERTS]


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FatalError, match="cannot write"):
        files.write(tmp_path / "file")


def test_the_command_says_what_it_has_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.main(["dashboards", "--to", str(tmp_path)])
        assert ended.value.code == 0
    (tmp_path / files.ALERTS).write_text("")
    with pytest.raises(SystemExit) as ended:
        cli.main(["dashboards", "--to", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        f"made      {tmp_path / files.DASHBOARD}",
        f"made      {tmp_path / files.ALERTS}",
        f"same      {tmp_path / files.DASHBOARD}",
        f"same      {tmp_path / files.ALERTS}",
    ]
    assert said[5] == f"kept      {tmp_path / files.ALERTS}"
    assert "--replace" in said[6]


def test_the_page_has_the_alerts_as_they_are() -> None:
    path = Path(__file__).parents[2] / "scripts/document_alerts.py"
    spec = importlib.util.spec_from_file_location("document_alerts", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.PAGE.read_text()
    assert page == script.with_table(page), "run scripts/document_alerts.py"
