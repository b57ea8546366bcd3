"""`llmctl serve` as a process: its start, its end, its workers, and what it reads again."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.conftest import KEY, Run
from tests.gateway.serving import Gateway, configure, serving
from tests.simulator.server import Simulator

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}
SLOW = 1.5  # seconds of a call that is under way when something happens


@pytest.fixture
def env(home: Path, environ: dict[str, str], sim: Simulator) -> dict[str, str]:
    """The environment of a gateway whose profiles lead to the simulator."""
    configure(home, sim)
    return {**environ, "SIM_KEY": KEY}


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return when it holds. Raises `AssertionError` where it does not come to."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.02)


@contextmanager
def call_under_way(gateway: Gateway, sim: Simulator) -> Iterator[list[int]]:
    """A slow call that has reached the provider; the list gets its status when it has ended,
    0 where the connection broke. Waited for at the end."""
    statuses: list[int] = []

    def ask() -> None:
        with gateway.client() as client:
            try:
                statuses.append(client.post("/v1/chat/completions", json=CHAT).status_code)
            except httpx2.TransportError:
                statuses.append(0)

    sim.latency = SLOW
    before = len(sim.calls)
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        until(lambda: len(sim.calls) > before)
        yield statuses
    finally:
        thread.join()
        sim.latency = 0.0


def workers_of(gateway: Gateway) -> list[psutil.Process]:
    """The worker processes, without multiprocessing's own helper."""
    children = psutil.Process(gateway.process.pid).children()
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def models(gateway: Gateway) -> set[str]:
    """The models that the gateway has."""
    with gateway.client() as client:
        return {model["id"] for model in client.get("/v1/models").json()["data"]}


def test_start_is_one_line(env: dict[str, str]) -> None:
    """The start is one line with the address, the models and whose calls are answered; then
    requests are answered without a `server` header; SIGTERM ends with exit 0."""
    with serving(env) as gateway:
        (line,) = gateway.lines
        assert line == (
            f"llmctl gateway on {gateway.url} (models sim, answers, claude, google; loopback, this "
            "user only)\n"
        )
        with gateway.client() as client:
            reply = client.get("/healthz")
        assert (reply.status_code, reply.json()) == (200, {"status": "ok"})
        assert "server" not in reply.headers
        assert gateway.stop() == 0
        assert len(gateway.lines) == 1


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(
    env: dict[str, str], sim: Simulator, flags: tuple[str, ...], number: int
) -> None:
    """A call in flight gets its answer, new connections are refused meanwhile, exit 0; why it does
    not end at once is told."""
    with serving(env, *flags) as gateway:
        with call_under_way(gateway, sim) as statuses:
            gateway.process.send_signal(number)
            assert "(1)" in gateway.wait_for("stopping when the calls under way")
            port = int(gateway.url.rpartition(":")[2])
            until(lambda: not accepts(port), SLOW)
            assert statuses == []
        assert statuses == [200]
        assert gateway.process.wait(20) == 0


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_a_second_interrupt_ends_at_once(
    env: dict[str, str], sim: Simulator, flags: tuple[str, ...]
) -> None:
    """After the second SIGINT the call in flight is given up: exit 130, without its answer."""
    with serving(env, *flags) as gateway, call_under_way(gateway, sim) as statuses:
        sim.hold()
        gateway.process.send_signal(signal.SIGINT)
        port = int(gateway.url.rpartition(":")[2])
        until(lambda: not accepts(port), SLOW)
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(10) == 130
        sim.release()
    assert statuses != [200]


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_a_changed_file_is_read(
    env: dict[str, str], home: Path, sim: Simulator, flags: tuple[str, ...]
) -> None:
    """Within seconds after a change callers find the new models; a call that was under way then
    gets its answer."""
    with serving(env, *flags) as gateway:
        file = home / ".config/llmctl/config.yaml"
        assert "fast" not in models(gateway)
        with call_under_way(gateway, sim) as statuses:
            file.write_text(file.read_text() + "serve: {models: {fast: sim}}\n")
            for _ in range(1 + (len(flags) > 0)):
                gateway.wait_for("the configuration was read again")
            assert "fast" in models(gateway)
        assert statuses == [200]


def test_hangup_reads_again(env: dict[str, str]) -> None:
    """SIGHUP has the configuration read again, by all workers."""
    with serving(env, "--workers", "2") as gateway:
        gateway.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            gateway.wait_for("the configuration was read again")
        assert gateway.process.poll() is None


def test_a_broken_file_changes_nothing(env: dict[str, str], home: Path) -> None:
    """A file with a mistake is told with its place, once, and what was served goes on."""
    with serving(env) as gateway:
        file = home / ".config/llmctl/config.yaml"
        good = file.read_text()
        file.write_text(good + "serve: {prot: 8400}\n")
        told = gateway.wait_for("the configuration stays as it was before")
        assert f"{file}:" in told
        assert "prot" in told
        assert "sim" in models(gateway)
        file.write_text(good)
        gateway.wait_for("the configuration was read again")
        assert sum("stays as it was" in line for line in gateway.lines) == 1


def test_a_file_that_is_gone_changes_nothing(env: dict[str, str], home: Path) -> None:
    """Without its file a gateway goes on as it was, caps and all; the file is read when it is back,
    changed or not."""
    with serving(env) as gateway:
        file = home / ".config/llmctl/config.yaml"
        good = file.read_text()
        file.unlink()
        assert f"{file} is gone" in gateway.wait_for("the configuration stays as it was before")
        assert "sim" in models(gateway)
        file.write_text(good + "serve: {models: {fast: sim}}\n")
        gateway.wait_for("the configuration was read again")
        assert "fast" in models(gateway)


def test_the_first_file_is_read(env: dict[str, str], home: Path) -> None:
    """A gateway that was started without a configuration serves by it once there is one."""
    file = home / ".config/llmctl/config.yaml"
    good = file.read_text()
    file.unlink()
    with serving(env) as gateway:
        assert "sim" not in models(gateway)
        file.write_text(good)
        gateway.wait_for("the configuration was read again")
        assert "sim" in models(gateway)


def test_a_killed_worker_comes_back(env: dict[str, str]) -> None:
    """After `kill -9` of a worker another one takes its place, and requests are answered all the
    while."""
    with serving(env, "--workers", "2") as gateway:
        before = workers_of(gateway)
        assert len(before) == 2
        before[0].kill()
        assert f"({before[0].pid}) was ended by signal 9" in gateway.wait_for("started again")
        assert models(gateway)
        until(lambda: len(workers_of(gateway)) == 2)
        assert before[0].pid not in {worker.pid for worker in workers_of(gateway)}
        assert gateway.stop() == 0


def test_workers_end_with_their_supervisor(env: dict[str, str]) -> None:
    """After `kill -9` of the supervisor no worker goes on."""
    with serving(env, "--workers", "2") as gateway:
        workers = workers_of(gateway)
        gateway.process.kill()
        _, alive = psutil.wait_procs(workers, 20)
        assert alive == []


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_what_fails_to_open_ends_the_start(
    run: Run, env: dict[str, str], home: Path, flags: tuple[str, ...]
) -> None:
    """A ledger that cannot be opened is one sentence and its own exit code, of a worker, too."""
    ledger = home / ".local/state/llmctl/ledger.db"
    ledger.mkdir(parents=True)
    done = run("serve", "--port", "0", *flags, env=env)
    assert done.returncode == 74
    assert done.stderr.startswith("error: ")
    assert str(ledger) in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_first_token_ends_the_service_without_one(env: dict[str, str], run: Run) -> None:
    """On loopback a token that is made later is asked for from then on."""
    with serving(env) as gateway:
        assert models(gateway)
        secret = run("tokens", "create", "ci", env=env).stdout.strip()
        with gateway.client() as client:
            until(lambda: client.get("/v1/models").status_code == 401)
        with gateway.client(secret) as client:
            assert client.get("/v1/models").status_code == 200


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    return made_certificate(tmp_path)


def made_certificate(folder: Path) -> tuple[Path, Path]:
    """Write `cert.pem` and `key.pem`."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


def serial_of(gateway: Gateway) -> int:
    """The serial number of the certificate that the gateway shows."""
    port = int(gateway.url.rpartition(":")[2])
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_tls(env: dict[str, str], certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """With a certificate requests are answered over TLS by its name alone, and one that takes its
    place is used without a start."""
    cert, key = certificate
    with serving(env, "--tls-cert", str(cert), "--tls-key", str(key)) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(cert))
        with httpx2.Client(verify=trusting, trust_env=False) as client:
            assert client.get(f"{gateway.url}/healthz").status_code == 200
        first = serial_of(gateway)
        made_certificate(tmp_path)
        gateway.wait_for("the configuration was read again")
        assert serial_of(gateway) != first


def test_endless_headers_are_refused(env: dict[str, str]) -> None:
    """A caller that goes on sending headers is cut off after some 64 kB."""
    with serving(env) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        caller = socket.create_connection(("127.0.0.1", port), 10)
        with closing(caller), pytest.raises(OSError, match=r"reset|pipe"):
            caller.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"a" * 10_000_000)
        with gateway.client() as client:
            assert client.get("/healthz").status_code == 200


def test_reloads_leave_nothing_open(env: dict[str, str]) -> None:
    """Each reload gives back what the service before it had open."""
    with serving(env) as gateway:
        process = psutil.Process(gateway.process.pid)

        def reload() -> int:
            gateway.process.send_signal(signal.SIGHUP)
            gateway.wait_for("the configuration was read again")
            return process.num_fds()

        first = [reload() for _ in range(3)][-1]
        last = [reload() for _ in range(5)][-1]
        assert last <= first + 2
