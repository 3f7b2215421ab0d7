"""schemathesis over the server's own OpenAPI description: no 5xx, no hang, and only what is described."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .served import Served

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SECONDS = 20
FULL_SECONDS = 600
SLOWEST_SECONDS = 10


@pytest.mark.slow
@pytest.mark.timeout(FULL_SECONDS + 300)
def test_whatever_is_asked_it_answers_as_described(tmp_path: Path, full_size: bool) -> None:
    seconds = FULL_SECONDS if full_size else SECONDS
    with Served(tmp_path / "fuzzed") as served:
        done = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), "run", f"{served.url}/openapi.json",
             "--checks", CHECKS, "--max-time", f"{seconds}", "--max-response-time", f"{SLOWEST_SECONDS}",
             "--request-timeout", f"{3 * SLOWEST_SECONDS}", "--phases", "coverage,fuzzing,stateful",
             "--generation-database", "none", "--warnings", "off", "--no-color"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=seconds + 200,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": python_path()},
        )  # fmt: skip
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert served.is_running


def python_path() -> str:
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
