"""A run on text in tokens: what it is measured in, and what dni-sample writes without text or tokenizer file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dni.data.text import load_text
from dni.data.tokenizer import read_tokenizer
from dni.errors import ConfigError
from tests.support.data.bpe import write_bpe
from tests.support.runs import tiny
from workers.cli.evaluate import evaluate
from workers.cli.evaluate import main as dni_evaluate
from workers.cli.export import export
from workers.cli.sample import Sampling, main, open_writer
from workers.cli.spelling import Characters, Tokens, held_back
from workers.launch.launcher import launch
from workers.storage.vocabulary import VOCABULARY

TEXT = "der Käse, the cat and the é on the mat\n" * 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose text and tokenizer are moved afterwards."""
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    tokenizer = write_bpe(folder / "tokenizer.json")
    data = {"path": str(folder / "text.txt"), "tokenizer": str(tokenizer), "sequence": None}
    config = tiny(data=data, steps=60, depth={"method": "backprop"}, optimizer={"learning_rate": 0.02})
    launch(config, folder / "run")
    return folder / "run"


def test_bits_are_per_token_and_per_byte(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(run, "valid")
    held_out = TEXT[len(TEXT) * 9 // 10 :]
    tokens = read_tokenizer(str(run.parent / "tokenizer.json")).encode(held_out)
    size = len(held_out.encode()) / len(tokens)
    assert size > 1
    assert found["bits_per_byte"] == pytest.approx(found["bits_per_label"] / size)
    assert dni_evaluate([str(run)]) == 0
    line = capsys.readouterr().out
    assert f"{found['bits_per_label']:.4f} bits per label, {found['bits_per_byte']:.4f} bits per byte, " in line


@pytest.mark.long
def test_text_is_written_without_text_or_tokenizer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = [(run.parent / name, run.parent / f"{name}.gone") for name in ("text.txt", "tokenizer.json")]
    for here, there in moved:
        here.rename(there)
    try:
        assert main([str(run), "--prompt", "the é", "--length", "40", "--temperature", "0"]) == 0
        text = capsys.readouterr().out
    finally:
        for here, there in moved:
            there.rename(here)
    writer = open_writer(run)
    ids = writer.encode("the é")
    for _ in range(40):  # greedy, by hand
        ids.append(int(open_writer(run).reader.read(ids).argmax()))
    assert text == read_tokenizer(str(run.parent / "tokenizer.json")).decode(ids) + "\n"


def test_a_character_is_written_once_it_is_whole(run: Path) -> None:
    """Drawn at random: many tokens are single bytes, some of which begin a character that never ends."""
    writer = open_writer(run)
    pieces = [*writer.write("the", 60, Sampling(temperature=5.0), seed=3)]
    assert not any(piece.endswith("\ufffd") for piece in pieces[:60])
    again, ids = open_writer(run), writer.encode("the")
    assert "".join(pieces) == "".join(again.write("the", 60, Sampling(temperature=5.0), seed=3))
    assert again.spelling.decode(ids) == "the"
    (held,) = [json.loads((run / VOCABULARY).read_text())]
    assert held.keys() == {"tokenizer"}
    assert held_back("K\ufffd\ufffd") == "K"


def test_what_cannot_begin_a_text_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--prompt", ""]) == 2
    assert "--prompt '' has no token of the run's tokenizer: give another prompt" in capsys.readouterr().err
    assert isinstance(open_writer(run).spelling, Tokens)
    characters = load_text(str(run.parent / "text.txt")).symbols
    assert Characters(characters).decode(Characters(characters).encode("Käse")) == "Käse"


def test_a_tokenizer_of_another_run_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / VOCABULARY
    before = path.read_text()
    other = write_bpe(run.parent / "other.json", 280).read_text(encoding="utf-8")
    path.write_text(json.dumps({"tokenizer": other}))
    try:
        assert main([str(run), "--prompt", "the"]) == 2
    finally:
        path.write_text(before)
    assert "280 tokens, but the model has 300 symbols: it belongs to another run" in capsys.readouterr().err


def test_weights_start_a_run_with_the_same_tokenizer_only(run: Path, tmp_path: Path) -> None:
    """Both tokenizers have 300 tokens, learned from different parts of the text."""
    file = export(run, tmp_path / "model.safetensors").path
    same = {"path": str(run.parent / "text.txt"), "sequence": None}
    other = write_bpe(tmp_path / "other.json", start=200_000)
    start = {"depth": {"method": "backprop"}, "steps": 1, "start_from": str(file)}
    launch(tiny(data={**same, "tokenizer": str(run.parent / "tokenizer.json")}, **start), tmp_path / "same")
    with pytest.raises(ConfigError, match="its text has other symbols: "):
        launch(tiny(data={**same, "tokenizer": str(other)}, **start), tmp_path / "new")
