"""The files that deploy the gateway: a unit of systemd, a container, an example configuration."""

from __future__ import annotations

import configparser
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from llmctl.config.load import load
from llmctl.config.settings import Serve
from llmctl.gateway.screen import screened

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
UNIT = CONFIGS / "llmctl-serve.service"
INSTALL = "install --no-cache-dir -c constraints.txt '.[serve]'"


def service() -> configparser.SectionProxy:
    """The unit's section about the process."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser["Service"]


def instructions() -> dict[str, list[str]]:
    """What the Dockerfile says, by instruction."""
    text = re.sub(r"^#.*\n", "", (CONFIGS / "Dockerfile.serve").read_text(), flags=re.MULTILINE)
    found = defaultdict(list)
    for line in text.replace("\\\n", " ").split("\n"):
        if line:
            name, _, rest = line.partition(" ")
            found[name].append(" ".join(rest.split()))
    return found


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """Systemd itself finds nothing wrong with it, nor much that the process may do to the machine
    (its score of exposure, of which 10 is the worst)."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not here")
    path = tmp_path / UNIT.name
    here = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    path.write_text(here)
    for check in (["verify"], ["security", "--offline=yes", "--threshold=15"]):
        done = subprocess.run(
            ["systemd-analyze", *check, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""


def test_the_service_may_write_only_its_own_folder() -> None:
    """It runs as a user of its own, without privileges; keys come from a file that is not the
    unit, which everybody may read."""
    said = service()
    assert said["User"] == "llmctl"
    assert said["StateDirectory"] == "llmctl"
    assert (said["ProtectSystem"], said["ProtectHome"]) == ("strict", "yes")
    assert (said["NoNewPrivileges"], said["CapabilityBoundingSet"]) == ("yes", "")
    assert "ReadWritePaths" not in said
    assert "Environment" not in said
    assert said["EnvironmentFile"].endswith(".env")


def test_the_service_lets_calls_end() -> None:
    """A stop waits for longer than any call of a profile's default takes; a reload is SIGHUP."""
    profile = load(environ={"HOME": "/"}, cwd=Path("/"), config=Path("/dev/null")).profiles[
        "openai"
    ]
    assert int(service()["TimeoutStopSec"]) > profile.timeout.total
    assert service()["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_image_is_built_from_the_checkout() -> None:
    """All that it copies is there, and all that the package's build reads is copied; what is
    installed is what was tested."""
    said = instructions()
    copied = {source for line in said["COPY"] for source in line.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "constraints.txt", "llmctl"} <= copied
    assert INSTALL in said["RUN"][0]
    assert "serve" in project["optional-dependencies"]


def test_the_container_is_not_root_and_holds_no_key() -> None:
    """A numbered user, which Kubernetes can check too; what the process keeps is in a volume."""
    said = instructions()
    (user,) = said["USER"]
    assert int(user) > 0
    assert f"--uid {user} " in said["RUN"][0]
    assert f"--home-dir {said['VOLUME'][0]} " in said["RUN"][0]
    assert f"HOME={said['VOLUME'][0]} " in said["ENV"][0]
    assert "KEY" not in said["ENV"][0]
    assert said["EXPOSE"] == [str(Serve().port)]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_container_is_healthy_as_the_gateway_says(status: int, code: int) -> None:
    """Its check asks `/healthz` and ends with 0 or 1, which is what Docker goes by."""
    asked = []

    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    command = json.loads(instructions()["HEALTHCHECK"][0].partition("CMD ")[2])
    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        server.timeout = 10
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        place = f"127.0.0.1:{server.server_port}"
        program = command[2].replace(f"127.0.0.1:{Serve().port}", place)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
        answering.join()
    assert (done.returncode, asked) == (code, ["/healthz"])


def test_the_example_and_all_that_it_offers_loads(tmp_path: Path) -> None:
    """Also the lines that are commented out; its rules match what they are named for."""
    text = (CONFIGS / "serve.yaml").read_text(encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(re.sub(r"^  # (?=\s*[a-z_]+:)", "  ", text, flags=re.MULTILINE))
    serve = load(environ={"HOME": str(tmp_path)}, cwd=tmp_path, config=path).serve
    assert serve.jwt is not None
    assert serve.introspection is not None
    assert serve.tls is not None
    for iban in ("DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "NO93 8601 1117 947"):
        body, _ = screened({"input": f"pay to {iban}, please"}, serve.screen[:1])
        assert body == {"input": "pay to [IBAN], please"}
