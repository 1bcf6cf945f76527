"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compfast.training.interrupts import STOPPING

# These need kernels interpreted, which triton decides at import; tests/test_triton.py runs them.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]

ENGINES = ("eager", "native")
LONG = ("test_triton.py", "test_triton_aot.py")  # single tests of a minute


# A worker of the tests has a core at most: two threads of OpenMP in each wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """The signals as a terminal gives them: nohup, or a shell's background, ignores some."""
    for number in STOPPING:
        if signal.getsignal(number) == signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: at the end one worker would be in them and the others idle."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def native_extension() -> None:
    """Fails, never skips: without the extension half of what is promised would go untested."""
    try:
        from compfast import _native  # noqa: F401  (only its presence matters)
    except ImportError as error:
        pytest.fail(f"compfast._native is not built, run pip install -e . first ({error})")


@pytest.fixture
def device() -> None:
    """Fails, never skips: who asks for -m gpu has one."""
    from compfast.engines import cuda_devices

    assert cuda_devices(), "no CUDA device"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of each engine in turn."""
    name: str = request.param
    if name == "native":
        request.getfixturevalue("native_extension")
    return name


@pytest.fixture
def fast_disk() -> Iterator[None]:
    """Nothing waits for the disk."""
    import fault_tools

    with fault_tools.fast_disk():
        yield


@pytest.fixture
def unhurried(fast_disk: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sweeps that wait for no disk, report every step, and keep their scratch in tmp_path."""
    from small_runs import small_config

    from compfast.cluster.part import here

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr("compfast.cluster.part._REPORT_SECONDS", 0.0)
    # A worker sets it for good; here it goes back after the test.
    monkeypatch.setenv("COMPFAST_ISA", here(small_config()).isa)


@pytest.fixture(scope="session")
def whole_sweep(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of one process that a sweep must equal."""
    from small_runs import small_config
    from sweeps import SWEEP

    import compfast

    return compfast.train(small_config(sweep=SWEEP), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint; who changes something in it puts it back."""
    from hostile import stopped_run

    return stopped_run(tmp_path_factory.mktemp("stopped") / "run")


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be spoilt."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """s3://BUCKET on a server of this process."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(secret, "test")
        s3fs.S3FileSystem().mkdir("sweeps")
        yield "s3://sweeps"
    server.stop()


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a sweep keeps its parts; in S3 only where s3fs and moto are installed."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/parts"
    return f"{'file://' if request.param == 'file' else ''}{tmp_path}/parts"
