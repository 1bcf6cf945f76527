"""A visit to a GPU without a GPU: its slices, its wheels, and the page made of what it left."""

from __future__ import annotations

import ast
import csv
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks import gpu_visit_report
from benchmarks.cards import H100, card_of
from benchmarks.gpu_visit_read import read

ROOT = Path(__file__).parent.parent
SCRIPTS = ("gpu_visit.sh", "gpu_slices.sh", "gpu_wheels.sh")

# What a visited machine has beside the list (scripts/gpu_wheels.txt says why), and what only
# tests use that no visit runs.
THERE = {"torch", "jinja2", "triton", "numpy", "matplotlib", "cycler", "PIL"}  # torch takes jinja2
NOT_VISITED = {"jax", "optax", "ray", "fsspec", "s3fs", "moto", "xarray", "atheris", "tomli"}
NOT_VISITED |= {"pytest_benchmark", "scipy", "playwright", "transformer_lens"}

FAKE = """
slice good 1 "does well" echo fine
slice bad 1 "fails" sh -c 'echo broken; exit 3'
slice slow 1 "runs out of time" sleep 60
slice late 99999 "does not fit" true
slice last 1 "comes after all of them" echo still here
"""


def visit(out: Path, *options: str, slices: str = FAKE) -> subprocess.CompletedProcess[str]:
    fake = out.parent / "slices.sh"
    fake.write_text(slices)
    return subprocess.run(
        [str(ROOT / "scripts" / "gpu_visit.sh"), *options, str(out)],
        env={**os.environ, "GPU_VISIT_SLICES": str(fake), "TMPDIR": str(out.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def rows(out: Path) -> list[tuple[str, str]]:
    with (out / "slices.csv").open(newline="") as file:
        return [(row["name"], row["exit"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / script)], check=True)


def test_a_slice_that_fails_or_hangs_ends_nothing(tmp_path: Path) -> None:
    out, archive = tmp_path / "out", tmp_path / "all.tar.gz"
    done = visit(out, "--slice", "1s", "--archive", str(archive))
    assert done.returncode == 1, done.stderr
    expected = [("good", "0"), ("bad", "3"), ("slow", "124"), ("late", "skipped"), ("last", "0")]
    assert rows(out) == expected
    assert (out / "bad.log").read_text() == "broken\n"
    assert "takes at least 99999" in (out / "late.log").read_text()
    with tarfile.open(archive) as packed:
        assert {"./slices.csv", "./last.log"} <= set(packed.getnames())
    assert [path.name for path in tmp_path.glob("gpu-visit.*")] == []


def test_only_the_slices_asked_for(tmp_path: Path) -> None:
    done = visit(tmp_path / "out", "--only", "good,last")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "out") == [("good", "0"), ("last", "0")]


def test_the_whole_limit_skips_what_is_left(tmp_path: Path) -> None:
    slices = 'slice long 1 "takes all" sleep 60\nslice next 9 "too late" true\n'
    done = visit(tmp_path / "out", "--limit", "2s", slices=slices)
    assert done.returncode == 1
    assert rows(tmp_path / "out") == [("long", "124"), ("next", "skipped")]
    assert done.stdout.splitlines()[-1] == "== left: --only long,next"


def test_a_hang_leaves_the_later_slices_what_they_need_at_least(tmp_path: Path) -> None:
    """Of 30 s the first gets 3, its least and what the second leaves; not --slice's minutes."""
    slices = 'slice hangs 1 "hangs" sleep 60\nslice next 27 "has its 27 s" true\n'
    done = visit(tmp_path / "out", "--limit", "30s", slices=slices)
    assert rows(tmp_path / "out") == [("hangs", "124"), ("next", "0")], done.stdout
    # what is not asked for is left nothing
    other = tmp_path / "other"
    assert visit(other, "--limit", "30s", "--slice", "2s", "--only", "hangs", slices=slices)
    with (other / "slices.csv").open(newline="") as file:
        assert [row["seconds"] for row in csv.DictReader(file)] == ["2"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--limit", "soon"), "--limit is 'soon'; it must be whole minutes"),
        (("--frobnicate",), "option --frobnicate is not known"),
        (("a", "b"), "OUT and at most WHEELS are needed"),
        (("--only", "good,smoek"), "--only: there is no slice 'smoek'"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = visit(tmp_path / "out", *options)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_second_visit_goes_on_and_writes_over_nothing(tmp_path: Path) -> None:
    out, log = tmp_path / "out", 'sh -c "echo \\$file; exit 3"'
    assert visit(out, "--only", "good,bad").returncode == 1
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    again = visit(out, "--slice", "1s", slices=FAKE.replace("sh -c 'echo broken; exit 3'", log))
    assert again.returncode == 1, again.stderr
    first = [("good", "0"), ("bad", "3")]
    second = [("bad", "3"), ("slow", "124"), ("late", "skipped"), ("last", "0")]
    assert rows(out) == first + second
    assert (out / "bad-2.log").read_text() == "bad-2\n"  # where its table would go too
    for name in ("good.log", "bad.log"):
        assert (out / name).read_bytes() == before[name]
    assert (out / "slices.csv").read_bytes().startswith(before["slices.csv"])


def test_every_module_and_test_that_a_slice_names_is_there() -> None:
    text = (ROOT / "scripts" / "gpu_slices.sh").read_text()
    for module in re.findall(r"-m ((?:benchmarks|compfast)\.\w+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    for file, test in re.findall(r"(tests/test_\w+\.py)(?:::(\w+))?", text):
        assert f"def {test}" in (ROOT / file).read_text(), (file, test)


def test_the_wheels_cover_what_is_imported() -> None:
    lines = (ROOT / "scripts" / "gpu_wheels.txt").read_text().splitlines()
    wheels = {line.partition("==")[0].replace("-", "_") for line in lines if line[:1] != "#"}
    assert not wheels & {"torch", "triton"}
    local = {path.stem for folder in ("tests", "tests/cpp", "tests/interpreted")
             for path in (ROOT / folder).glob("*.py")}  # fmt: skip
    imported = set()
    for folder in ("compfast", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.partition(".")[0])
    outside = imported - set(sys.stdlib_module_names) - local - {"compfast", "benchmarks"}
    missing = outside - wheels - THERE - NOT_VISITED
    assert not missing, f"scripts/gpu_wheels.txt lacks {sorted(missing)}"


STEP = (
    "device,torch,triton,commit,when,what,launches,d,heads,precision,members,batch,milliseconds,spread,"
    "member_steps,gflop,megabytes,tflops,share\n"
)


def step(
    what: str,
    d: int,
    ms: float,
    *,
    share: float = 0.0,
    device: str = "H100 80GB HBM3",
    day: int = 6,
) -> str:
    gflop, megabytes = 98.9, 335.0  # 0.1 ms of each on an H100 in bf16
    tflops = gflop / ms
    return (
        f"NVIDIA {device},2.11.0,3.6.0,abc,2026-11-2{day}T10,{what},12,{d},1,bf16,512,128,{ms},"
        f"0.01,1.0,{gflop},{megabytes},{tflops},{share}\n"
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A complete visit."""
    (tmp_path / "slices.csv").write_text(
        'name,exit,seconds,what\nvalues,1,61,"values, all"\nspeed-32,0,40,"d 32"\n'
    )
    (tmp_path / "values.log").write_text(
        "[gw3] [ 10%] PASSED tests/test_triton_gpu.py::test_ten_steps[a] \n"
        "tests/test_cuda_gpu.py::test_ten_steps FAILED [ 50%]\n"
    )
    (tmp_path / "speed-32.csv").write_text(
        STEP
        + step('"triton, CUDA graph"', 32, 1.0)
        + step('"triton, launches one by one"', 32, 1.5)
        + step("kernel adamw.update 1", 32, 0.5)
        + step("kernel head.head 1", 32, 0.2)
        + step("eager loop over members", 32, 20.0)
        + step('"triton, CUDA graph"', 128, 4.0, share=0.2)
    )
    (tmp_path / "memory.csv").write_text(
        "device,when,what,d,precision,members,value,unit\n"
        'NVIDIA H100 80GB HBM3,2026-11-26T9,"workspace, model",32,bf16,512,100,B\n'
        'NVIDIA H100 80GB HBM3,2026-11-26T9,"workspace, taken",32,bf16,512,105,B\n'
    )
    return tmp_path


def test_the_page_of_a_whole_visit(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_visit_report.main([str(out)]) == 0
    text = capsys.readouterr().out
    page = (out / "report.md").read_text()
    assert text.startswith(page)
    assert text.removeprefix(page).splitlines() == [
        f"To commit: {out}/gpu-h100-80gb-hbm3-2026-11-26{end}.csv" for end in ("", "-card")
    ]
    assert "eager loop over members: **reached**, 20.0 times" in text
    assert "bf16 peak at d 128: **missed**, 20.0 %" in text
    assert "1 failed, 1 passed." in text
    assert "- FAILED: tests/test_cuda_gpu.py::test_ten_steps" in text
    # 0.5 ms for 335 MB: 0.67 TB/s, a fifth of the card's; its floor is 0.1 ms
    assert "| bf16 | adamw.update 1 | 0.500 | 197.80 | 0.0 | 0.670 | 20.0 | 0.100 |" in text
    assert "1. d 32, heads 1, bf16, kernel adamw.update 1: 0.500 ms, floor 0.100; 57 %" in text
    assert "workspace of 512 members of d 32 in bf16: 1.050 of the model." in text


def test_the_page_of_a_visit_that_was_cut_off(out: Path) -> None:
    """In the middle of a line of the running slice, whose row was never written."""
    text = (out / "speed-32.csv").read_text()
    (out / "speed-32.csv").write_text(text[: text.index("kernel head")])
    (out / "slices.csv").write_text('name,exit,seconds,what\nvalues,124,480,"values, all"\n')
    (out / "speed-32.log").write_text("d 32\n")
    page = gpu_visit_report.page(read([out]))
    assert "| speed-32 | cut off |" in page
    assert "| values | 124, out of time | 480 | values, all |" in page
    assert page.count("**not measured**") == 2
    assert "adamw.update 1" in page


def test_the_tables_to_commit_are_the_rows_that_were_measured(out: Path) -> None:
    """Made twice they are the same: what was made is not read."""
    assert gpu_visit_report.main([str(out)]) == 0
    made = out / "gpu-h100-80gb-hbm3-2026-11-26.csv"
    assert made.read_text() == (out / "speed-32.csv").read_text()
    card = out / "gpu-h100-80gb-hbm3-2026-11-26-card.csv"
    assert card.read_text() == (out / "memory.csv").read_text()
    assert gpu_visit_report.main([str(out)]) == 0
    assert made.read_text() == (out / "speed-32.csv").read_text()


def test_two_visits_are_one_page_and_the_last_figure_counts(out: Path, tmp_path: Path) -> None:
    (out / "speed-32-2.csv").write_text(STEP + step("eager loop over members", 32, 30.0))
    (out / "speed-32.log").write_text("d 32\n")
    (out / "speed-32-2.log").write_text("d 32, cut off\n")
    later = tmp_path / "later"
    later.mkdir()
    (later / "slices.csv").write_text('name,exit,seconds,what\nspeed-64,0,9,"d 64"\n')
    (later / "speed-64.log").write_text("")
    (later / "speed-64.csv").write_text(
        STEP
        + step('"triton, CUDA graph"', 32, 2.0, day=7)
        + step("torch.func vmap", 64, 9.0, day=7)
    )
    assert gpu_visit_report.main([str(out), str(later)]) == 0
    text = (out / "report.md").read_text()
    assert "**reached**, 20.0 times (bf16 1.500 ms against" in text
    assert "| speed-32 | cut off |" in text
    assert "| speed-64 | cut off |" not in text
    assert "| 64 | 1 | bf16 | 512 | torch.func vmap |" in text
    assert (out / "gpu-h100-80gb-hbm3-2026-11-26.csv").read_text().count("CUDA graph") == 2


def test_the_page_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = gpu_visit_report.page(read([tmp_path]))
    assert page.count("Not measured.") == 5
    assert gpu_visit_report.main([str(tmp_path / "gone")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_an_unknown_card_is_said(out: Path) -> None:
    for file in ("speed-32.csv", "memory.csv"):
        text = (out / file).read_text().replace("H100 80GB HBM3", "B9000")
        (out / file).write_text(text)
    page = gpu_visit_report.page(read([out]))
    assert "no share and no floor is given" in page


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_cards_by_their_drivers_names(device: str, card: str | None) -> None:
    found = card_of(device)
    assert (found.name if found else None) == card


def test_a_floor_is_the_slower_of_both() -> None:
    assert H100.floor(989e12, 0, "bf16") == 1.0
    assert H100.floor(0, 6.7e12, "bf16") == 2.0
