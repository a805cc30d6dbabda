"""The demo as a user meets it: `make demo`, pages and uploads over HTTP, Ctrl-C, and no process left."""

from __future__ import annotations

import http.cookiejar
import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from playwright.sync_api import Page

from example.servers import shown, without_password
from tests.axe import Found
from tests.servers import ROOT
from tests.waiting import wait_until

PASSWORD = "s3cr3t-pass"
STOP_LIMIT_SECONDS = 30


class Running:
    """A demo that runs, and a browser without JavaScript for its pages."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, var_dir: Path) -> None:
        self.process = process
        self.var_dir = var_dir
        self._output = output
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._browser = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def url(self) -> str:
        match = re.search(r"Open (http://127\.0\.0\.1:\d+)/", self.output)
        return match.group(1) if match else ""

    def open(self, path: str, body: bytes | None = None, **headers: str) -> tuple[str, bytes]:
        """Send a request, with a body as POST; gives the address and the content after any redirect."""
        request = urllib.request.Request(self.url + path, body, headers)
        with self._browser.open(request) as response:
            return response.url, response.read()

    def get(self, path: str) -> str:
        return self.download(path).decode()

    def download(self, path: str) -> bytes:
        return self.open(path)[1]

    def post(self, path: str, fields: dict[str, str], file: tuple[str, bytes] | None = None) -> tuple[str, str]:
        """Fill in the form of a page and send it; gives the address and the text of the next page."""
        token = self.token(path.replace("sample/", ""))
        body, content_type = encode_form({**fields, "csrfmiddlewaretoken": token}, file)
        address, page = self.open(path, body, **{"Content-Type": content_type})
        return address, page.decode()

    def token(self, path: str) -> str:
        """What Django wants of the forms of a page."""
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(path))
        assert found is not None
        return found.group(1)

    def send(self, path: str, fields: dict[str, str], file: tuple[str, bytes] | None = None) -> str:
        """Fill in and send a form that starts a job; gives the address where its bar asks."""
        _, page = self.post(path, fields, file)
        return bars(page)[0]

    def upload(self, content: bytes, name: str = "rows.csv") -> dict[str, Any]:
        """Import a file, and give the last progress."""
        return self.finished(self.send("/import/", {}, (name, content)))[-1]

    def progress(self, address: str) -> dict[str, Any]:
        return dict(json.loads(self.get(address)))

    def finished(self, address: str) -> list[dict[str, Any]]:
        """Poll until the end, and give every answer that was new."""
        answers: list[dict[str, Any]] = []

        def is_complete() -> bool:
            answer = self.progress(address)
            if not answers or answer["version"] != answers[-1]["version"]:
                answers.append(answer)
            return bool(answer["complete"])

        wait_until(is_complete)
        return answers

    def rows(self, name: str) -> list[list[str]]:
        """The rows in the database that came from a file."""
        query = """
            SELECT example_row."values" FROM example_row JOIN example_import ON example_import.id = source_id
            WHERE name = ? ORDER BY line
        """
        with closing(sqlite3.connect(self.var_dir / "db.sqlite3")) as database:
            return [json.loads(values) for (values,) in database.execute(query, [name])]


@contextmanager
def starting(var_dir: Path, *command: str, **environment: str) -> Iterator[Running]:
    """Start the demo in a process group of its own, as a shell does; Ctrl-C at the end."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "BROKER_URL")}
    output = var_dir / "output.txt"
    with output.open("wb") as log:
        process = subprocess.Popen(
            command or (sys.executable, "-m", "example.demo"),
            cwd=ROOT,
            env=inherited | {"EXAMPLE_VAR": str(var_dir), "PORT": str(free_port())} | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Running(process, output, var_dir)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(STOP_LIMIT_SECONDS)


@contextmanager
def demo(var_dir: Path, *command: str, **environment: str) -> Iterator[Running]:
    """A demo that is up."""
    with starting(var_dir, *command, **environment) as running:
        wait_until(lambda: running.url or running.process.poll() is not None)
        assert running.url, running.output
        yield running


def refused(var_dir: Path, **environment: str) -> str:
    """Start a demo that cannot run; gives what it says."""
    with starting(var_dir, **environment) as running:
        assert running.process.wait(STOP_LIMIT_SECONDS) == 1
    assert "Traceback" not in running.output
    return running.output


def encode_form(fields: dict[str, str], file: tuple[str, bytes] | None) -> tuple[bytes, str]:
    """A form as a browser sends it; gives the body and its content type."""
    if file is None:
        return urllib.parse.urlencode(fields).encode(), "application/x-www-form-urlencoded"
    boundary = secrets.token_hex(16)
    disposition = f"--{boundary}\r\nContent-Disposition: form-data; name="
    body = "".join(f'{disposition}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()).encode()
    name, content = file
    body += f'{disposition}"file"; filename="{name}"\r\nContent-Type: text/csv\r\n\r\n'.encode()
    return body + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def bars(page: str) -> list[str]:
    """Where the bars of a page ask for progress."""
    return re.findall(r'<dramatiq-progress[^>]* src="([^"]+)"', page)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def processes() -> dict[int, tuple[int, str]]:
    """The processes of this machine that are no zombies: id to parent's id and command line."""
    table = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,command="], capture_output=True, text=True, check=True
    )
    rows = (line.split(None, 3) for line in table.stdout.splitlines())
    return {int(row[0]): (int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")}


def family(pid: int) -> dict[int, str]:
    """A process, its children and theirs: id to command line."""
    table = processes()
    members = {pid}
    while more := {each for each, (parent, _) in table.items() if parent in members} - members:
        members |= more
    return {each: table[each][1] for each in members}


def nothing_is_left_of(members: dict[int, str]) -> bool:
    table = processes()
    # An id may have been given to another process meanwhile.
    return not any(table.get(pid, (0, ""))[1] == command for pid, command in members.items())


@pytest.fixture(scope="module")
def redis_url(valkey: str) -> str:
    return f"{valkey}/9"


@pytest.fixture(scope="module")
def running(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One demo for the tests that only use it."""
    with demo(tmp_path_factory.mktemp("demo"), REDIS_URL=redis_url) as running:
        yield running


# --- The pages ---


def test_an_uploaded_file_is_imported(running: Running) -> None:
    rows = [[str(number), f"name, with a comma {number}", 'a "quoted"\nline break'] for number in range(1, 1201)]
    content = "id,name,note\n" + "".join(f'{number},"{name}","a ""quoted""\nline break"\n' for number, name, _ in rows)
    address = running.send("/import/", {"slowly": "on"}, ("people.csv", content.encode()))
    answers = running.finished(address)

    assert answers[-1]["state"] == "done"
    assert answers[-1]["result"] == {"imported": 1200}
    assert {"Checking", "Importing"} >= {each["progress"]["description"] for each in answers} - {""}
    seen = [each["progress"]["current"] for each in answers if each["progress"]["description"] == "Importing"]
    assert seen == sorted(seen)
    assert seen[-1] == 1200
    assert set(seen) <= {0, 500, 1000, 1200}
    assert running.rows("people.csv") == rows
    assert "people.csv" in running.get("/import/")


def test_the_page_of_an_import_has_its_bar_after_a_refresh(running: Running) -> None:
    address, page = running.post("/import/", {}, ("again.csv", b"a,b\n1,2\n"))
    path = urllib.parse.urlsplit(address).path
    assert bars(running.get(path)) == bars(page)
    assert path.split("/")[-2] in bars(page)[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1,2\n1,2,3\n", "Line 3 has 3 columns, but the header has 2. Nothing was imported."),
        (b'a,b\n"1\n1",2\n1\n', "Line 4 has 1 column, but the header has 2. Nothing was imported."),
        (b"", "The file is empty."),
        (b"a,b\n", "The file has a header but no rows, so there is nothing to import."),
        (
            b"just some text\nand more\n",
            "This does not look like CSV: there are no commas, semicolons or tabs in its",
        ),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "This file is not UTF-8 text."),
        ("a,b\nä,ö\n".encode("latin-1"), "This file is not UTF-8 text."),
        (b"a,b\n1,\x00\n", "This is not a text file."),
        (b'a,b\n1,"2\n', "This file cannot be read as CSV"),
    ],
    ids=[
        "long row",
        "short row",
        "empty",
        "no rows",
        "no columns",
        "image",
        "latin-1",
        "binary",
        "open quote",
    ],
)
def test_a_bad_file_is_refused_with_a_reason(running: Running, content: bytes, told: str) -> None:
    name = f"{secrets.token_hex(4)}.csv"
    last = running.upload(content, name)
    assert last["state"] == "failed"
    assert last["success"] is False
    assert last["result"].startswith(told)
    assert last["attempt"] == 1
    assert running.rows(name) == []
    assert name not in running.get("/import/")


@pytest.mark.parametrize(
    "content",
    ["\ufeffa,b\r\n1,ä\r\n", "a;b\n1;ä\n", "a\tb\n1\tä\n", "a,b\n\n1,ä\n\n"],
    ids=["byte order mark", "semicolons", "tabs", "blank lines"],
)
def test_usual_kinds_of_csv_are_understood(running: Running, content: str) -> None:
    name = f"{secrets.token_hex(4)}.csv"
    assert running.upload(content.encode(), name)["result"] == {"imported": 1}
    assert running.rows(name) == [["1", "ä"]]


def test_an_import_that_is_delivered_again_takes_no_row_twice(running: Running) -> None:
    script = """
import django
django.setup()
from django.core.files.base import ContentFile
from example.models import Import, Row
from example.tasks import import_rows

source = Import.objects.create(name="twice.csv", file=ContentFile(b"a,b\\n1,2\\n3,4\\n", "twice.csv"))
Row.objects.create(source=source, line=2, values=["left by", "a worker that died"])
import_rows(str(source.pk))
import_rows(str(source.pk))
"""
    environment = {"DJANGO_SETTINGS_MODULE": "example.settings", "EXAMPLE_VAR": str(running.var_dir)}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ | environment, check=True)
    assert running.rows("twice.csv") == [["1", "2"], ["3", "4"]]


def test_an_import_that_is_cancelled_leaves_no_row(running: Running) -> None:
    content = b"a,b\n" + b"1,2\n" * 100_000
    address = running.send("/import/", {"slowly": "on"}, ("unwanted.csv", content))
    wait_until(lambda: running.rows("unwanted.csv"))
    assert running.progress(address)["can_cancel"]
    token = running.token("/import/")
    running.open(f"{address}cancel/", urllib.parse.urlencode({"csrfmiddlewaretoken": token}).encode())
    assert running.finished(address)[-1]["state"] == "cancelled"
    assert running.rows("unwanted.csv") == []


def test_no_file_and_a_file_too_big_are_told_on_the_form(running: Running) -> None:
    _, page = running.post("/import/", {}, None)
    assert "Choose a CSV file first." in page
    _, page = running.post("/import/", {}, ("big.csv", b"a,b\n" * (6 * 1024 * 1024)))
    assert "This file is too big: it has 24.0\xa0MB, and the limit is 20.0\xa0MB." in page


def test_the_sample_is_imported_and_comes_back_in_the_export(running: Running) -> None:
    imported = running.finished(running.send("/import/sample/", {}))[-1]
    assert imported["result"]["imported"] > 20_000

    exported = running.finished(running.send("/export/", {}))
    assert exported[-1]["state"] == "done"
    assert exported[-1]["progress"]["current"] == exported[-1]["progress"]["total"] >= 20_000
    with zipfile.ZipFile(io.BytesIO(running.download(exported[-1]["result"]["url"]))) as archive:
        assert archive.testzip() is None
        name = next(each for each in archive.namelist() if each.endswith("-airports.csv"))
        lines = archive.read(name).decode().splitlines()
    assert lines[0].startswith("icao,iata,name,city")
    assert len(lines) == imported["result"]["imported"] + 1


def test_an_export_that_is_not_there_is_not_found(running: Running) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        running.download("/export/00000000-0000-4000-8000-000000000000.zip")
    with caught.value as error:
        assert error.code == 404


def test_jobs_for_one_slow_worker_wait_their_turn(running: Running) -> None:
    address, page = running.post("/queue/", {"jobs": "3", "seconds": "1"})
    addresses = bars(page)
    assert len(addresses) == 3
    assert bars(running.get(address.removeprefix(running.url))) == addresses

    seen: list[list[str]] = []

    def all_are_done() -> bool:
        # The last is asked first: if it runs, the others have ended when they are asked.
        seen.append([running.progress(each)["state"] for each in reversed(addresses)])
        return set(seen[-1]) == {"done"}

    wait_until(all_are_done)
    assert all(states.count("running") <= 1 for states in seen)
    assert ["enqueued", "enqueued", "running"] in seen
    assert ["running", "done", "done"] in seen


def test_more_jobs_than_allowed_are_refused(running: Running) -> None:
    _, page = running.post("/queue/", {"jobs": "11", "seconds": "3"})
    assert "less than or equal to 10" in page
    assert bars(page) == []


def test_a_job_that_fails_twice_is_retried_until_it_succeeds(running: Running) -> None:
    answers = running.finished(running.send("/trouble/", {"kind": "retry"}))
    states = [each["state"] for each in answers]
    assert states[-1] == "done"
    assert answers[-1]["attempt"] == 3
    retrying = [each for each in answers if each["state"] == "retrying"]
    assert {each["attempt"] for each in retrying} == {1, 2}
    assert all(each["progress"]["percent"] == 40 for each in retrying)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("message", "Invoice 2026-0013 has no address. Add one, then start again."),
        ("exception", "The task failed."),
    ],
)
def test_a_job_that_fails_for_good_says_what_the_user_may_know(running: Running, kind: str, told: str) -> None:
    last = running.finished(running.send("/trouble/", {"kind": kind}))[-1]
    assert (last["state"], last["result"], last["attempt"]) == ("failed", told, 1)


def test_your_jobs_are_those_of_this_browser(running: Running) -> None:
    address = running.send("/trouble/", {"kind": "message"})
    page = running.get("/jobs/")
    assert address in bars(page)
    assert "<span>Fail with a message</span>" in page
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{running.url}/jobs/") as response:
        assert b"You have sent no jobs" in response.read()


@pytest.mark.parametrize(
    "path", ["/", "/import/", "/export/", "/queue/", "/trouble/", "/jobs/", "/queue/?message=%2F..%2F&message=x"]
)
def test_pages_open(running: Running, path: str) -> None:
    page = running.get(path)
    for address in re.findall(r'(?:src|href)="(/[^"]*)"', page):
        if "/progress/" not in address:
            running.download(address)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 320)])
def test_pages_keep_nobody_out(
    running: Running, run_axe: Callable[[Page], Found], page: Page, scheme: Any, width: int
) -> None:
    """Neither by what axe finds nor by what hangs out of a narrow window."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 700})
    for path in ("/", "/import/", "/export/", "/queue/", "/trouble/", "/jobs/"):
        page.goto(f"{running.url}{path}")
        for summary in page.locator("summary").all():
            summary.click()
        assert (path, run_axe(page).violations) == (path, {})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_a_form_without_its_token_is_refused(running: Running) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        running.open("/trouble/", b"kind=retry")
    with caught.value as error:
        assert error.code == 403


# --- The command ---


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_demo_takes_another_port_and_leaves_nothing_behind_after_ctrl_c(tmp_path: Path) -> None:
    # The environment of the tests will do, whatever make thinks of its age.
    command = ("make", f"VENV={sys.prefix}", f"--assume-old={sys.prefix}/demo.stamp", "demo")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with demo(tmp_path, *command, PORT=str(port)) as running:
            assert f"Port {port} is busy; the demo takes" in running.output
            assert not running.url.endswith(f":{port}")
            address = running.send("/queue/", {"jobs": "1", "seconds": "2"})
            wait_until(lambda: running.progress(address)["state"] == "running")
            members = family(running.process.pid)
            for part in ("make", "example.demo", "valkey-server", "runserver", "dramatiq"):
                assert any(part in command_line for command_line in members.values()), part
            os.killpg(running.process.pid, signal.SIGINT)
            running.process.wait(STOP_LIMIT_SECONDS)
    assert "Stopped." in running.output
    assert "Traceback" not in running.output
    wait_until(lambda: nothing_is_left_of(members))
    worker_log = next(tmp_path.glob("logs/*/slow-worker.log")).read_text()
    assert "Stopping worker process" in worker_log, "it was asked, not killed"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_launcher_takes_everything_with_it(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        members = family(running.process.pid)
        running.process.kill()
        running.process.wait(STOP_LIMIT_SECONDS)
        wait_until(lambda: nothing_is_left_of(members))


def test_a_part_that_dies_is_named_and_ends_the_demo(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        members = family(running.process.pid)
        web = next(pid for pid, command_line in members.items() if "runserver" in command_line)
        os.kill(web, signal.SIGKILL)
        assert running.process.wait(STOP_LIMIT_SECONDS) == 1
    assert "The web server was ended by SIGKILL. The end of" in running.output
    assert "Stopped." in running.output
    wait_until(lambda: nothing_is_left_of(members))


def test_sigterm_while_it_starts_ends_it_too(tmp_path: Path) -> None:
    with starting(tmp_path) as running:
        wait_until(lambda: len(family(running.process.pid)) > 1)
        members = family(running.process.pid)
        running.process.terminate()
        assert running.process.wait(STOP_LIMIT_SECONDS) == 0
    wait_until(lambda: nothing_is_left_of(members))


def test_redis_url_is_used_for_broker_and_store(running: Running, redis_url: str) -> None:
    assert f"progress  in {redis_url} (REDIS_URL)" in running.output
    assert not any("valkey-server" in command_line for command_line in family(running.process.pid).values())
    message_id = running.upload(b"a,b\n1,2\n")["id"]
    with redis.Redis.from_url(redis_url) as client:
        keys = {key.decode() for key in client.scan_iter()}
    assert f"dramatiq-progress:{message_id}" in keys
    assert any(key.startswith("dramatiq-progress-example:") for key in keys)


def test_a_redis_that_cannot_be_reached_is_told_without_its_password(tmp_path: Path) -> None:
    port = free_port()
    said = refused(tmp_path, REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{port}/3")
    assert f"Cannot use the server of REDIS_URL, redis://127.0.0.1:{port}/3: " in said
    assert "unset REDIS_URL" in said
    assert PASSWORD not in said


def test_a_redis_that_refuses_the_password_is_told_without_it(valkey: str, tmp_path: Path) -> None:
    said = refused(tmp_path, REDIS_URL=valkey.replace("redis://", f"redis://user:{PASSWORD}@"))
    assert "Cannot use the server of REDIS_URL" in said
    assert PASSWORD not in said


def test_a_rabbitmq_that_cannot_be_reached_is_told_without_its_password(tmp_path: Path) -> None:
    port = free_port()
    said = refused(tmp_path, BROKER_URL=f"amqp://user:{PASSWORD}@127.0.0.1:{port}/")
    assert f"Cannot use the server of BROKER_URL, amqp://127.0.0.1:{port}/" in said
    assert "unset BROKER_URL" in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"PORT": "http"}, "PORT is 'http'; it must be a number from 1 to 65535."),
        ({"PORT": "70000"}, "PORT is '70000'"),
        ({"REDIS_URL": f"http://{PASSWORD}"}, "REDIS_URL is not the URL of a Redis server."),
        ({"REDIS_URL": f"redis://:{PASSWORD}/x@host:6379"}, "REDIS_URL is not the URL of a Redis server."),
        ({"BROKER_URL": f"kafka://{PASSWORD}"}, "BROKER_URL must begin with amqp://"),
        ({"EXAMPLE_VAR": "/dev/null"}, "EXAMPLE_VAR chooses another place."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_work_is_told_at_once(tmp_path: Path, environment: dict[str, str], told: str) -> None:
    said = refused(tmp_path, **environment)
    assert told in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://user:word@host:6379/1", "redis://host:6379/1"),
        ("redis://host", "redis://host"),
        ("rediss://:word@[::1]:6379/0?password=word", "rediss://::1:6379/0"),
        ("unix:///run/redis.sock?password=word", "unix:///run/redis.sock"),
        ("redis://user:1/word@host", "redis://user:1"),
        ("redis://user:wo/rd@host", "(a URL that cannot be read)"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, text: str) -> None:
    assert shown(url) == text


def test_passwords_are_taken_out_of_any_text() -> None:
    url = "redis://user:p%40ss@host"
    assert without_password("as p@ss or as p%40ss", url, "", "redis://[") == "as *** or as ***"
