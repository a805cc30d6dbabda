"""The demo: `make demo`, its pages and uploads over HTTP, and Ctrl+C, after which no process is left."""

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

import django
import pytest
import redis
from PIL import Image
from playwright.sync_api import Page, expect

from example.servers import shown, without_password
from tests.axe import Found
from tests.servers import ROOT, free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.slow(3)

HAS_TASKS = django.VERSION >= (6, 0)
PAGES = ["/", "/import/", "/export/", "/photos/", "/queue/", "/trouble/", "/schedules/", "/jobs/"]
PAGES += ["/task/"] if HAS_TASKS else []

PASSWORD = "s3cr3t-pass"
STOP_LIMIT_SECONDS = 90


class Running:
    """A running demo, and a client for its pages without JavaScript."""

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
        """Send a request (with a body as POST), and return the URL and the content after any redirect.

        On a busy machine the store may not answer in time. Then it is sent again, as a bar does it.
        """
        request = urllib.request.Request(self.url + path, body, headers)

        def answered() -> tuple[str, bytes] | None:
            try:
                with self._browser.open(request) as response:
                    return response.url, response.read()
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                error.close()
                return None

        answer = wait_until(answered)
        assert answer is not None
        return answer

    def get(self, path: str) -> str:
        return self.download(path).decode()

    def download(self, path: str) -> bytes:
        return self.open(path)[1]

    def post(self, path: str, fields: dict[str, str], file: tuple[str, bytes] | None = None) -> tuple[str, str]:
        """Fill in and send the form of a page, and return the URL and the text of the next page."""
        token = self.token(path.replace("sample/", ""))
        body, content_type = encode_form({**fields, "csrfmiddlewaretoken": token}, file)
        address, page = self.open(path, body, **{"Content-Type": content_type})
        return address, page.decode()

    def token(self, path: str) -> str:
        """Return the CSRF token of the forms of a page."""
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(path))
        assert found is not None
        return found.group(1)

    def send(self, path: str, fields: dict[str, str], file: tuple[str, bytes] | None = None) -> str:
        """Fill in and send a form that starts a job, and return the URL that its bar polls."""
        _, page = self.post(path, fields, file)
        return bars(page)[0]

    def upload(self, content: bytes, name: str = "rows.csv") -> dict[str, Any]:
        """Import a file, and return its final progress."""
        return self.finished(self.send("/import/", {}, (name, content)))[-1]

    def progress(self, address: str) -> dict[str, Any]:
        return dict(json.loads(self.get(address)))

    def finished(self, address: str) -> list[dict[str, Any]]:
        """Poll until the job is finished, and return each different answer."""
        answers: list[dict[str, Any]] = []

        def is_complete() -> bool:
            answer = self.progress(address)
            if not answers or answer["version"] != answers[-1]["version"]:
                answers.append(answer)
            return bool(answer["complete"])

        wait_until(is_complete)
        return answers

    def rows(self, name: str) -> list[list[str]]:
        """Return the rows in the database that were imported from a file."""
        query = """
            SELECT example_row."values" FROM example_row JOIN example_import ON example_import.id = source_id
            WHERE name = ? ORDER BY line
        """
        with closing(sqlite3.connect(self.var_dir / "db.sqlite3")) as database:
            return [json.loads(values) for (values,) in database.execute(query, [name])]


@contextmanager
def starting(var_dir: Path, *command: str, **environment: str) -> Iterator[Running]:
    """Start the demo in its own process group, as a shell does, and press Ctrl+C at the end."""
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
    """Run a demo."""
    with starting(var_dir, *command, **environment) as running:
        wait_until(lambda: running.url or running.process.poll() is not None)
        assert running.url, running.output
        yield running


def refused(var_dir: Path, **environment: str) -> str:
    """Start a demo that can't run, and return its output."""
    with starting(var_dir, **environment) as running:
        assert running.process.wait(STOP_LIMIT_SECONDS) == 1
    assert "Traceback" not in running.output
    return running.output


def encode_form(fields: dict[str, str], file: tuple[str, bytes] | None) -> tuple[bytes, str]:
    """Encode a form as a browser does, and return the body and its content type."""
    if file is None:
        return urllib.parse.urlencode(fields).encode(), "application/x-www-form-urlencoded"
    boundary = secrets.token_hex(16)
    disposition = f"--{boundary}\r\nContent-Disposition: form-data; name="
    body = "".join(f'{disposition}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()).encode()
    name, content = file
    body += f'{disposition}"file"; filename="{name}"\r\nContent-Type: text/csv\r\n\r\n'.encode()
    return body + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def bars(page: str) -> list[str]:
    """Return the URLs that the bars of a page poll."""
    return re.findall(r'<dramatiq-progress[^>]* src="([^"]+)"', page)


def processes() -> dict[int, tuple[int, str]]:
    """Return the processes of this machine, without zombies: id to parent's id and command line."""
    table = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,command="], capture_output=True, text=True, check=True
    )
    rows = (line.split(None, 3) for line in table.stdout.splitlines())
    return {int(row[0]): (int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")}


def family(pid: int) -> dict[int, str]:
    """Return a process and its descendants: id to command line."""
    table = processes()
    members = {pid}
    while more := {each for each, (parent, _) in table.items() if parent in members} - members:
        members |= more
    return {each: table[each][1] for each in members}


def nothing_is_left_of(members: dict[int, str]) -> bool:
    table = processes()
    # In the meantime an id may have been reused.
    return not any(table.get(pid, (0, ""))[1] == command for pid, command in members.items())


@pytest.fixture(scope="module")
def redis_url(valkey: str) -> str:
    return f"{valkey}/9"


@pytest.fixture(scope="module")
def running(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One demo for all tests that don't stop it."""
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
    steps = [(each["step"] and each["step"]["name"], each["progress"]) for each in answers]
    assert {"Checking", "Importing"} >= {name for name, _ in steps} - {None}
    percents = [progress["percent"] or 0.0 for _, progress in steps]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    seen = [progress["current"] for name, progress in steps if name == "Importing"]
    assert seen == sorted(seen)
    assert seen[-1] == 1200
    assert set(seen) <= {0, 500, 1000, 1200}
    assert running.rows("people.csv") == rows
    assert "people.csv" in running.get("/import/")


def test_the_page_of_an_import_has_the_same_bar_after_a_reload(running: Running) -> None:
    address, page = running.post("/import/", {}, ("again.csv", b"a,b\n1,2\n"))
    path = urllib.parse.urlsplit(address).path
    assert bars(running.get(path)) == bars(page)
    assert path.split("/")[-2] in bars(page)[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b\n1,2\n1,2,3\n", "Line 3 has 3 columns, but the header has 2. Nothing was imported."),
        (b'a,b\n"1\n1",2\n1\n', "Line 4 has 1 column, but the header has 2. Nothing was imported."),
        (b"", "The file is empty."),
        (b"a,b\n", "The file has a header but no rows. Nothing was imported."),
        (
            b"just some text\nand more\n",
            "This doesn't look like CSV: its first line has no commas, semicolons or tabs.",
        ),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "This file isn't UTF-8 text."),
        ("a,b\nä,ö\n".encode("latin-1"), "This file isn't UTF-8 text."),
        (b"a,b\n1,\x00\n", "This isn't a text file."),
        (b'a,b\n1,"2\n', "This file can't be read as CSV"),
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
def test_an_invalid_file_fails_with_a_reason(running: Running, content: bytes, reason: str) -> None:
    name = f"{secrets.token_hex(4)}.csv"
    last = running.upload(content, name)
    assert last["state"] == "failed"
    assert last["success"] is False
    assert last["result"].startswith(reason)
    assert last["attempt"] == 1
    assert running.rows(name) == []
    assert name not in running.get("/import/")


@pytest.mark.parametrize(
    "content",
    ["\ufeffa,b\r\n1,ä\r\n", "a;b\n1;ä\n", "a\tb\n1\tä\n", "a,b\n\n1,ä\n\n"],
    ids=["byte order mark", "semicolons", "tabs", "blank lines"],
)
def test_common_kinds_of_csv_are_read(running: Running, content: str) -> None:
    name = f"{secrets.token_hex(4)}.csv"
    assert running.upload(content.encode(), name)["result"] == {"imported": 1}
    assert running.rows(name) == [["1", "ä"]]


def test_an_import_that_is_redelivered_imports_no_row_twice(running: Running) -> None:
    script = """
import django
django.setup()
from django.core.files.base import ContentFile
from example.models import Import, Row
from example.tasks import import_rows
from dramatiq_progress import ProgressObserver

source = Import.objects.create(name="twice.csv", file=ContentFile(b"a,b\\n1,2\\n3,4\\n", "twice.csv"))
Row.objects.create(source=source, line=2, values=["left by", "a worker that died"])
import_rows(str(source.pk))
import_rows(str(source.pk))

# A worker that was killed has saved more than its place says.
source = Import.objects.create(name="killed.csv", file=ContentFile(b"a,b\\n1,2\\n3,4\\n", "killed.csv"))
Row.objects.create(source=source, line=2, values=["1", "2"])
observer = ProgressObserver()
observer._binding._go_on({"cursor": '[1, ["clean"], null, 0, null]'})
import_rows.fn(observer, str(source.pk))
"""
    environment = {"DJANGO_SETTINGS_MODULE": "example.settings", "EXAMPLE_VAR": str(running.var_dir)}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ | environment, check=True)
    assert running.rows("twice.csv") == running.rows("killed.csv") == [["1", "2"], ["3", "4"]]


def test_an_import_that_is_cancelled_leaves_no_row(running: Running) -> None:
    content = b"a,b\n" + b"1,2\n" * 100_000
    address = running.send("/import/", {"slowly": "on"}, ("unwanted.csv", content))
    wait_until(lambda: running.rows("unwanted.csv"))
    assert running.progress(address)["can_cancel"]
    token = running.token("/import/")
    running.open(f"{address}cancel/", urllib.parse.urlencode({"csrfmiddlewaretoken": token}).encode())
    assert running.finished(address)[-1]["state"] == "cancelled"
    assert running.rows("unwanted.csv") == []


def test_the_form_shows_that_a_file_is_missing_or_too_big(running: Running) -> None:
    _, page = running.post("/import/", {}, None)
    assert "Choose a CSV file first." in page
    _, page = running.post("/import/", {}, ("big.csv", b"a,b\n" * (6 * 1024 * 1024)))
    assert "This file is too large: it has 24.0\xa0MB, and the limit is 20.0\xa0MB." in page


def test_the_imported_sample_is_in_the_export(running: Running) -> None:
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


def test_an_unknown_export_is_not_found(running: Running) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        running.download("/export/00000000-0000-4000-8000-000000000000.zip")
    with caught.value as error:
        assert error.code == 404


def test_photos_share_one_bar_whose_end_says_that_one_has_failed(running: Running) -> None:
    address, page = running.post("/photos/", {})
    (bar,) = bars(page)
    last = running.finished(bar)[-1]
    assert (last["state"], last["title"], last["result"]) == ("failed", "Resize 60 photos", "1 of 60 failed.")
    assert (last["parts"]["done"], last["parts"]["failed"]) == (59, 1)
    pictures = re.findall(r'<img src="([^"]+)" alt="Photo (\d+)"', running.get(address.removeprefix(running.url)))
    assert {int(number) for _, number in pictures} == {*range(1, 61)} - {9}
    assert Image.open(io.BytesIO(running.download(pictures[0][0]))).size == (160, 120)
    shown = bars(running.get("/jobs/"))
    assert bar in shown
    assert len(shown) == len(set(shown))


def test_jobs_for_one_slow_worker_wait_in_the_queue(running: Running) -> None:
    # The first job still runs after two pages and a poll of all, also on a busy machine.
    address, page = running.post("/queue/", {"jobs": "3", "seconds": "4"})
    addresses = bars(page)
    assert len(addresses) == 3
    assert bars(running.get(address.removeprefix(running.url))) == addresses

    seen: list[list[str]] = []

    def all_are_done() -> bool:
        # The last is polled first: if it runs, the others are done when they are polled.
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
    ("kind", "message"),
    [
        ("message", "Invoice 2026-0013 has no address. Add one, then start again."),
        ("exception", "The task failed."),
    ],
)
def test_a_job_that_fails_without_retries_shows_the_message_for_the_user(
    running: Running, kind: str, message: str
) -> None:
    last = running.finished(running.send("/trouble/", {"kind": kind}))[-1]
    assert (last["state"], last["result"], last["attempt"]) == ("failed", message, 1)


def test_the_page_of_your_jobs_has_the_jobs_of_this_browser(running: Running) -> None:
    address = running.send("/trouble/", {"kind": "message"})
    page = running.get("/jobs/")
    assert address in bars(page)
    assert "<b>Fail with a message</b>" in page
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{running.url}/jobs/") as response:
        assert b"No jobs yet" in response.read()


def test_a_task_of_django_has_a_bar_and_a_private_result_where_django_has_tasks(running: Running) -> None:
    assert ('href="/task/"' in running.get("/")) == HAS_TASKS
    if not HAS_TASKS:
        return
    page_url, page = running.post("/task/", {})
    progress = running.finished(bars(page)[0])[-1]
    assert (progress["state"], progress["title"]) == ("done", "Count countries")
    assert re.fullmatch(r"The airports are in \d+ countries\.", progress["result"])
    path = urllib.parse.urlsplit(page_url).path
    assert re.search(r"<td>SUCCESSFUL</td>.*<th scope=\"row\">US</th><td>[\d,]+</td>", running.get(path), re.DOTALL)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page_url) as response:
        assert b"SUCCESSFUL" not in response.read()


@pytest.mark.parametrize("path", [*PAGES, "/queue/?message=%2F..%2F&message=x"])
def test_all_pages_and_their_links_open(running: Running, path: str) -> None:
    page = running.get(path)
    for address in re.findall(r'(?:src|href)="(/[^"]*)"', page):
        if "/progress/" not in address:
            running.download(address)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 320)])
def test_pages_are_accessible_and_fit_narrow_windows(
    running: Running, run_axe: Callable[[Page], Found], page: Page, scheme: Any, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 700})
    for path in PAGES:
        page.goto(f"{running.url}{path}")
        for summary in page.locator("summary").all():
            summary.click()
        assert (path, run_axe(page).violations) == (path, {})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_home_shows_the_import_that_was_started_there(running: Running, page: Page) -> None:
    page.goto(running.url)
    assert page.locator(".live dramatiq-progress").get_attribute("src") is None
    page.get_by_role("button", name="Start the import").click()
    bar = page.locator(".live dramatiq-progress")
    expect(bar).to_have_attribute("state", "running")
    expect(page.locator("nav .wide .badge")).to_contain_text("1")
    requests = page.locator("#facts div", has_text="Requests by this page").locator("dd")
    expect(requests).to_have_text(re.compile("[1-9]"))
    expect(page.get_by_role("button", name="Start another")).to_be_visible()
    bar.get_by_role("button", name="Cancel").click()
    expect(bar).to_have_attribute("state", "cancelled")


def test_the_grid_of_photos_fills_until_the_user_cancels(running: Running, page: Page) -> None:
    page.goto(f"{running.url}/photos/")
    page.get_by_role("button", name="Resize the photos").click()
    page.wait_for_url("**/photos/*/")
    expect(page.locator("#photos img")).not_to_have_count(0)
    bar = page.locator("dramatiq-progress")
    bar.get_by_role("button", name="Cancel").click()
    expect(bar).to_have_attribute("state", "cancelled")
    assert page.locator("#photos li:empty").count()
    page.goto(f"{running.url}/jobs/")
    expect(page.locator("dramatiq-progress", has_text="Resize 60 photos")).to_have_count(1)


@pytest.mark.slow(25)
def test_an_import_goes_on_after_the_page_has_restarted_its_worker(running: Running, page: Page) -> None:
    page.goto(f"{running.url}/trouble/")
    page.get_by_role("button", name="Start a slow import").click()
    page.wait_for_url("**/trouble/*/")
    bar = page.locator("dramatiq-progress")
    expect(bar).to_contain_text(re.compile(r"Importing\. [1-9][\d,]* of"))
    page.get_by_role("button", name="Restart the worker").click()
    expect(bar).to_contain_text(re.compile(r"Waiting to continue\. .*Importing\. [1-9][\d,]* of"))
    waiting = reading(page)
    expect(bar).to_have_attribute("state", "running")
    resumed = reading(page)
    assert resumed["attempt"] == 2
    assert resumed["progress"]["current"] >= waiting["progress"]["current"] > 0
    expect(bar).to_have_attribute("state", "done")
    # Other imports of the same file are whole or have left nothing.
    assert len(running.rows("airports.csv")) % reading(page)["result"]["imported"] == 0


def reading(page: Page) -> dict[str, Any]:
    """Return the progress that the page's bar shows."""
    return dict(page.evaluate("fetch(document.querySelector('dramatiq-progress').src).then((answer) => answer.json())"))


def test_the_table_of_imports_is_new_without_a_reload(running: Running, page: Page, tmp_path: Path) -> None:
    """And what the page says is true for a second import too."""
    for number in (1, 2):
        file = tmp_path / f"table-{number}.csv"
        file.write_text("name,born\nAda,1815\nGrace,1906\n")
        page.goto(f"{running.url}/import/")
        page.get_by_label("CSV file").set_input_files(file)
        page.get_by_role("button", name="Upload and import").click()
        page.wait_for_url("**/import/*/")
        expect(page.locator("dramatiq-progress [part=text]")).to_have_text("imported: 2")
        row = page.get_by_role("row", name=file.name)
        expect(row.get_by_role("cell").nth(1)).to_have_text("2")


def test_a_form_without_its_token_is_refused(running: Running) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        running.open("/trouble/", b"kind=retry")
    with caught.value as error:
        assert error.code == 403


# --- The command ---


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_demo_uses_a_free_port_and_leaves_no_process_after_ctrl_c(tmp_path: Path) -> None:
    # The environment of the tests is good enough, even if make takes it for outdated.
    command = ("make", f"VENV={sys.prefix}", f"--assume-old={sys.prefix}/demo.stamp", "demo")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with demo(tmp_path, *command, PORT=str(port)) as running:
            assert f"Port {port} is busy; the demo uses" in running.output
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
    assert "Stopping worker process" in worker_log, "the worker was stopped, not killed"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent to its child")
def test_killing_the_launcher_stops_all_parts(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        members = family(running.process.pid)
        running.process.kill()
        running.process.wait(STOP_LIMIT_SECONDS)
        wait_until(lambda: nothing_is_left_of(members))


def test_the_death_of_a_part_is_reported_and_ends_the_demo(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        members = family(running.process.pid)
        web = next(pid for pid, command_line in members.items() if "runserver" in command_line)
        os.kill(web, signal.SIGKILL)
        assert running.process.wait(STOP_LIMIT_SECONDS) == 1
    assert "The web server was killed by SIGKILL. Last lines of" in running.output
    assert "Stopped." in running.output
    wait_until(lambda: nothing_is_left_of(members))


def test_sigterm_during_the_start_ends_the_demo(tmp_path: Path) -> None:
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


def test_the_error_of_an_unreachable_redis_has_no_password(tmp_path: Path) -> None:
    port = free_port()
    output = refused(tmp_path, REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{port}/3")
    assert f"Can't use the server of REDIS_URL, redis://127.0.0.1:{port}/3: " in output
    assert "unset REDIS_URL" in output
    assert PASSWORD not in output


def test_the_error_of_a_redis_that_refuses_the_password_has_no_password(valkey: str, tmp_path: Path) -> None:
    output = refused(tmp_path, REDIS_URL=valkey.replace("redis://", f"redis://user:{PASSWORD}@"))
    assert "Can't use the server of REDIS_URL" in output
    assert PASSWORD not in output


def test_the_error_of_an_unreachable_rabbitmq_has_no_password(tmp_path: Path) -> None:
    port = free_port()
    output = refused(tmp_path, BROKER_URL=f"amqp://user:{PASSWORD}@127.0.0.1:{port}/")
    assert f"Can't use the server of BROKER_URL, amqp://127.0.0.1:{port}/" in output
    assert "unset BROKER_URL" in output
    assert PASSWORD not in output


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PORT": "http"}, "PORT is 'http'; it must be a number from 1 to 65535."),
        ({"PORT": "70000"}, "PORT is '70000'"),
        ({"REDIS_URL": f"http://{PASSWORD}"}, "REDIS_URL is not the URL of a Redis server."),
        ({"REDIS_URL": f"redis://:{PASSWORD}/x@host:6379"}, "REDIS_URL is not the URL of a Redis server."),
        ({"BROKER_URL": f"kafka://{PASSWORD}"}, "BROKER_URL must start with amqp://"),
        ({"EXAMPLE_VAR": "/dev/null"}, "Set EXAMPLE_VAR to another folder."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_invalid_settings_are_reported_at_the_start(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    output = refused(tmp_path, **environment)
    assert message in output
    assert PASSWORD not in output


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://user:word@host:6379/1", "redis://host:6379/1"),
        ("redis://host", "redis://host"),
        ("rediss://:word@[::1]:6379/0?password=word", "rediss://::1:6379/0"),
        ("unix:///run/redis.sock?password=word", "unix:///run/redis.sock"),
        ("redis://user:1/word@host", "redis://user:1"),
        ("redis://user:wo/rd@host", "(an invalid URL)"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, text: str) -> None:
    assert shown(url) == text


def test_passwords_are_removed_from_any_text() -> None:
    url = "redis://user:p%40ss@host"
    assert without_password("as p@ss or as p%40ss", url, "", "redis://[") == "as *** or as ***"
