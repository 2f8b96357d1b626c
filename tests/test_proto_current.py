"""The committed protobuf code is what the committed description generates."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GENERATE = "--proto_path=workers=proto/dni/v1 --python_out=. --pyi_out=. workers/stage.proto"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("grpc_tools")
    out = tmp_path_factory.mktemp("generated")
    arguments = GENERATE.replace("out=.", f"out={out}").split()
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], cwd=ROOT, check=True, timeout=50)
    return out


@pytest.mark.parametrize("name", ["stage_pb2.py", "stage_pb2.pyi"])
def test_committed_code_is_current(generated: Path, name: str) -> None:
    fresh, committed = generated / "workers" / name, ROOT / "workers" / name
    assert fresh.read_text() == committed.read_text(), "run the command at the top of stage.proto and commit"


def test_proto_file_names_the_generating_command() -> None:
    assert GENERATE in (ROOT / "proto/dni/v1/stage.proto").read_text()
