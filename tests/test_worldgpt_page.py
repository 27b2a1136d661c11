"""The page of all evaluations: it needs no other file, and a part that cannot run says why."""

import re
from pathlib import Path

import pytest

from data.errors import UserError
from data.store import EpisodeStore
from worldgpt.evaluate.page import evaluate_all, tables
from worldgpt.evaluate.page_config import PageConfig
from worldgpt.evaluate.physics_config import PhysicsEvaluationConfig


@pytest.fixture(scope="module")
def settings(trained: Path, column_store: EpisodeStore, column_probes: Path) -> dict[str, str]:
    return {"checkpoint": str(trained), "data": str(column_store.path), "probes": str(column_probes)}


def test_all_parts_come_to_one_page(settings: dict[str, str], tmp_path: Path) -> None:
    page = evaluate_all(PageConfig(**settings, output=str(tmp_path / "report"), quick=True)).read_text()
    for name in ("Quality", "Control", "Drift"):
        assert f"<h2>{name}</h2>" in page
    assert "Left out" not in page
    assert page.count("data:image/png;base64,") >= 8
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<script" not in page
    assert "<td>camera/front</td>" in page and "<td>tokenizer floor</td>" in page and "<td>every_n:20</td>" in page


def test_a_part_that_cannot_run_says_why(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("quality.evaluate_quality", "control.evaluate_control"):
        monkeypatch.setattr(f"worldgpt.evaluate.{part}", _refuse)
    config = PageConfig(**settings, output=str(tmp_path / "report"), horizon=12, quick=True)
    page = evaluate_all(config).read_text()
    assert page.count("Left out: no &lt;such&gt; thing") == 2 and "<td>every_n:20</td>" in page
    assert "quality left out: no <such> thing" in capsys.readouterr().out
    monkeypatch.setattr("worldgpt.evaluate.drift.evaluate_drift", _refuse)
    with pytest.raises(UserError, match="no part could be measured; no <such> thing"):
        evaluate_all(PageConfig(**settings, output=str(tmp_path / "other")))


def test_a_world_of_balls_gets_a_part_of_its_own(settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(config: PhysicsEvaluationConfig) -> None:
        assert (config.checkpoint, config.data, config.quick) == ("runs/balls", "runs/data/physics", True)
        folder = Path(config.output)
        folder.mkdir(parents=True)
        (folder / "report.json").write_text('{"rollouts": 12}')
        (folder / "table.md").write_text("| a ball | there |\n| --- | --- |\n| model | 0.9 |\n")

    for part in ("quality.evaluate_quality", "control.evaluate_control", "drift.evaluate_drift"):
        monkeypatch.setattr(f"worldgpt.evaluate.{part}", _refuse)
    monkeypatch.setattr("worldgpt.evaluate.physics.evaluate_physics", measure)
    config = PageConfig(**settings, output=str(tmp_path / "report"), quick=True, physics_checkpoint="runs/balls")
    page = evaluate_all(config).read_text()
    assert "<h2>Physics</h2>" in page and "rollouts 12" in page and "<td>model</td>" in page and page.count("Left out") == 3
    assert "physics" not in PageConfig(**settings, output=str(tmp_path)).parts()


def _refuse(config: object) -> None:
    raise UserError("no <such> thing")


def test_several_tables_stay_apart() -> None:
    assert tables("| a |\n| --- |\n| 1 |\n\n| b |\n| --- |").count("<table>") == 2
