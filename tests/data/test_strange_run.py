"""A whole run, as a user starts it, on a folder in which everything is odd."""

import json
import os

import pytest
from PIL import Image

from tests.data.damage import file_of, png_with, zeros_from
from tests.tiny import in_new_process


@pytest.mark.proof
def test_a_folder_full_of_oddities_trains_and_is_reported_on_a_strict_terminal(tmp_path):
    data = tmp_path / "caf\xe9 & co"
    data.mkdir()
    for number in range(4):
        Image.effect_noise((64, 64), 200).save(data / f"good{number}.png")
        (data / f"good{number}.txt").write_text("one\u2028line\n", encoding="utf-8")
    (data / "text.png").write_bytes(png_with((b"tEXt", b"a\0b", b"\0\0\0\0")))
    (data / "half.jpg").write_bytes(zeros_from(file_of("avif"), 0.5))
    for name in (b"\x83e\x83X.png", b"f\xfcr.png"):
        Image.new("RGB", (64, 64), "red").save(data / os.fsdecode(name))
    (data / os.fsdecode(b"f\xfcr.txt")).write_text("red")
    rows = [{"file_name": "text.png", "text": "cut \ud83d"}, {"file_name": "half.jpg", "text": "half"}]
    rows.append({"file_name": "C:\\gone.png", "text": "gone"})
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    options = ["debug=tiny", "data=folder", f"data.path='{data}'", "autoencoder.scale=1", f"run_dir='{run}'"]
    options += ["eval.scorer=null", "trainer.max_steps=1", "trainer.accelerator=cpu", "trainer.threads=1"]
    done = in_new_process("-m", "t2ilab", *options, cwd=tmp_path, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("\\x83e\\x83X.png", "mended: 1 broken character: metadata.jsonl:1", "Windows path: 1"):
        assert part in done.stdout
    report = json.loads((run / "data_report.json").read_text())
    assert (report["found"], report["used"]) == (8, 6)
    json.dumps(report, ensure_ascii=False).encode()
    assert (run / "report.html").is_file()
