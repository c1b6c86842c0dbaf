"""schemathesis reads /openapi.json and tries to make the server contradict it: every phase, valid and invalid data alike.

It runs as its users run it, as a command against a real socket. `OPENLLM_TEST_SCHEMATHESIS` says how many examples of each
operation it makes; `hatch run full` makes many.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.enumerate.site import site
from tests.openllm.server.serving import listening

EXAMPLES = int(os.environ.get("OPENLLM_TEST_SCHEMATHESIS") or 4)

KEY = "sk-of-the-test-0123456789abcdef"
NOT_CHECKED = {
    "positive_data_acceptance": "rules between fields, the table of fields and backends, and the names that are served can "
    "refuse what the schema of each field allows; bad_inputs judges those cases one by one",
}
"""Checks of schemathesis that are left out -> why."""


@pytest.mark.timeout(120 + 6 * EXAMPLES)
async def test_the_server_keeps_to_its_document(tmp_path: Path, record_property: Callable[[str, object], None]):
    """No server error, no undocumented status, content type or shape, nothing accepted that the schema forbids, no method
    answered that is not there, nothing answered without a key."""
    async with site(tmp_path / "store", options={"api_key": [KEY]}) as made, listening(made.served) as port:
        document = (
            tmp_path / "openapi.json"
        )  # where it reads it from the server, it does not ask for it as an operation
        document.write_text(json.dumps(made.document))
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", f"http://127.0.0.1:{port}"),
            *(
                "--header",
                f"Authorization: Bearer {KEY}",
                "--mode",
                "all",
                "--phases",
                "examples,coverage,fuzzing,stateful",
                "--checks",
                "all",
            ),
            *("--exclude-checks", ",".join(NOT_CHECKED), "--max-examples", str(EXAMPLES), "--seed", "71"),
            *("--continue-on-failure", "--no-shrink", "--no-color", "--generation-database", "none"),
            *("--suppress-health-check", "all", "--warnings", "off", "--report", "json"),
            *("--report-json-path", str(tmp_path / "report.json")),
        ]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path
        )
        output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output[-6000:]
    report = json.loads((tmp_path / "report.json").read_text())
    record_property("cases", report["test_cases"]["generated"])
    paths = made.document["paths"]
    assert report["operations"]["tested"] == sum(len(item) for item in paths.values()), report["operations"]
    assert {phase["status"] for phase in report["phases"].values()} == {"success"}, report["phases"]
    assert report["complete"] and report["test_cases"]["generated"] > 40 * len(paths), report["test_cases"]
