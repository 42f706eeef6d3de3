"""The served report: this machine only, nothing but the page, following the run."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from chromium import Browser
from PIL import Image

from videohpm.errors import UserError
from videohpm.report import ReportServer


@pytest.fixture
def run(tmp_path):
    """A run that has done 1 of 3 steps."""
    folder = tmp_path / "run"
    (folder / "pictures").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    (folder / "config.yaml").write_text("run: {steps: 3}\n")
    (folder / "environment.json").write_text("{}")
    (folder / "secret.txt").write_text("nobody may see this")
    return folder


@contextmanager
def serving(run):
    server = ReportServer(str(run))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server, path="/", method="GET", hosts=None):
    """(status, headers, body) of a request with these Host headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    for host in [f"127.0.0.1:{server.server_port}"] if hosts is None else hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


def log(run, step):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": 0.25}) + "\n")


def test_the_report_is_served_and_follows_the_run(run):
    with serving(run) as server:
        status, headers, body = ask(server)
        assert status == 200 and "step 1 of 3" in body
        assert 'http-equiv="refresh"' in body
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store"
        log(run, 2)
        assert "step 2 of 3" in ask(server)[2]
        Image.new("RGB", (8, 8)).save(run / "pictures" / "reconstruction_0000002.png")
        assert "data:image/png" in ask(server)[2]
        log(run, 3)
        body = ask(server)[2]
        assert "step 3 of 3 (done)" in body and 'http-equiv="refresh"' not in body


def test_the_page_is_built_only_when_something_has_changed(run):
    with serving(run) as server:
        ask(server)
        first = server._page
        ask(server)
        assert server._page is first
        log(run, 2)
        ask(server)
        assert server._page is not first


def test_head_has_no_body(run):
    with serving(run) as server:
        status, headers, body = ask(server, method="HEAD")
        assert status == 200 and body == "" and int(headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt", "/metrics.jsonl", "/../run/secret.txt", "/./", "/%2e%2e/secret.txt",
        "/index.html", "/?x", "/pictures/", "http://127.0.0.1/", "*", "/favicon.ico",
    ],
)  # fmt: skip
def test_nothing_but_the_report_is_there(run, path):
    with serving(run) as server:
        status, _, body = ask(server, path)
        assert status == 404 and "nobody" not in body and "step 1" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT"])
def test_other_methods_are_refused(run, method):
    with serving(run) as server:
        assert ask(server, method=method)[0] == 501


@pytest.mark.parametrize(
    "hosts",
    [
        [], [""], ["evil.example"], ["evil.example:{port}"], ["127.0.0.1"], ["127.0.0.1:1"],
        ["127.0.0.1.evil.example:{port}"], ["localhost:{port}", "evil.example"], ["0.0.0.0:{port}"],
    ],
)  # fmt: skip
def test_another_host_is_refused(run, hosts):
    with serving(run) as server:
        hosts = [host.format(port=server.server_port) for host in hosts]
        status, _, body = ask(server, hosts=hosts)
        assert status == 421 and "step 1" not in body


def test_localhost_is_this_machine_too(run):
    with serving(run) as server:
        assert ask(server, hosts=[f"localhost:{server.server_port}"])[0] == 200


def test_only_the_loopback_address_listens(run):
    with serving(run) as server:
        assert server.server_address[0] == "127.0.0.1"
        with socket.socket() as other, pytest.raises(OSError):
            other.settimeout(5)
            other.connect(("127.0.0.2", server.server_port))


def test_a_folder_that_goes_away(run):
    with serving(run) as server:
        assert ask(server)[0] == 200
        shutil.rmtree(run)
        status, _, body = ask(server)
        assert status == 503 and "no such folder" in body


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        ReportServer(str(tmp_path / "absent"))
    with serving(run) as server, pytest.raises(UserError, match=f"port: {server.server_port}"):
        ReportServer(str(run), server.server_port)
    with pytest.raises(UserError, match="port: 70000"):
        ReportServer(str(run), 70000)


def test_control_c_ends_it(run):
    # A shell's background job, and what it starts, ignores the signal unless told otherwise.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from videohpm.report import explore; explore(sys.argv[1])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:") and str(run) in line
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
        finally:
            process.kill()  # leaving the block waits for it
    assert process.returncode == 0 and rest == "ended\n"


@pytest.mark.slow
def test_a_browser_shows_it(run, tmp_path):
    Image.new("RGB", (8, 8)).save(run / "pictures" / "reconstruction_0000001.png")
    with serving(run) as server, Browser(tmp_path / "profile") as browser:
        address = f"http://127.0.0.1:{server.server_port}/"
        browser.open(address)
        assert browser.value("document.getElementById('shown').textContent") == "step 1"
        assert [url for url in browser.requests if not url.startswith("data:")] == [address]
        assert browser.complaints == []
