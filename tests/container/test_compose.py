"""`docker compose --profile cpu up`: as a user meets it, as an attacker would, and after each process is killed."""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable

import httpx
import pytest

from tests.container.compose import Project, healthy
from tests.container.containers import execute
from tests.container.daemon import REPOSITORY

SERVICES = ["chat-cpu", "denoiser"]
QUESTION = {"inputs": "Hi", "parameters": {"max_new_tokens": 2, "do_sample": False}}
TEXTS = {"texts": ["A data warehouse stores data from many sources."], "noise_level": 0.1}
LISTENING = "0A"
"""A socket's state in /proc/net/tcp."""

ELSEWHERE = " -o ".join(f"-path {folder} -prune" for folder in ("/proc", "/sys", "/dev", "/run/secrets"))
WRITABLE = f"find / {ELSEWHERE} -o -writable -type f,d -print 2>/dev/null"


def inside(project: Project, service: str, *command: str) -> str:
    """Output of a command in a service's container, run as its user."""
    return execute(project.container(service), *command)[1]


def test_readme_curl_lines_work_against_the_published_ports(project: Project) -> None:
    start = (REPOSITORY / "README.md").read_text().split("## Chat")[0]
    commands = re.findall(r"^(curl .*?)\n```", start, re.DOTALL | re.MULTILINE)
    assert len(commands) == 2
    ports = {"localhost:8080": f"localhost:{project.chat_port}", "localhost:8000": f"localhost:{project.denoiser_port}"}
    replies = []
    for command in commands:
        line = re.sub(r"localhost:80\d0", lambda match: ports[match[0]], command.replace("\\\n", ""))
        replies.append(subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout)
    assert json.loads(replies[0])["outputs"].startswith("A data warehouse is")
    assert len(json.loads(replies[1])["denoised_embeddings"][0]) == 384


def test_ports_are_published_on_localhost_only(project: Project) -> None:
    for service in SERVICES:
        bindings = project.container(service).attrs["NetworkSettings"]["Ports"].values()
        assert {entry["HostIp"] for binding in bindings if binding for entry in binding} == {"127.0.0.1"}


def test_prometheus_reads_figures_on_a_port_of_their_own(project: Project) -> None:
    assert answers(project.chat, "/invocations", QUESTION)
    figures = httpx.get(f"http://127.0.0.1:{project.metrics_port}/metrics", timeout=60).text
    assert 'chat_requests_total{status="200"}' in figures


@pytest.mark.parametrize("service", SERVICES)
def test_runs_without_rights(project: Project, service: str) -> None:
    status = dict(re.findall(r"(\w+):\t(.*)", inside(project, service, "cat", "/proc/self/status")))
    assert status["Uid"].split() == ["10001"] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert project.container(service).attrs["HostConfig"]["Privileged"] is False


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_writable_but_scratch(project: Project, service: str) -> None:
    found = inside(project, service, "sh", "-c", WRITABLE).splitlines()
    assert "/tmp" in found
    assert [path for path in found if not re.match(r"/(tmp|data)(/|$)", path)] == []
    assert ("/data" in found) == (service == "denoiser")
    mounts = inside(project, service, "cat", "/proc/self/mounts").splitlines()
    written = [line.split()[1] for line in mounts if "rw" in line.split()[3].split(",") and " /sys" not in line]
    assert [
        path for path in written if not re.match(r"/(proc|dev|tmp|data|etc/(hosts|hostname|resolv\.conf))", path)
    ] == []


def test_management_is_reachable_from_nowhere(project: Project) -> None:
    for route in ("/models", "/console", "/server/metrics"):
        assert httpx.get(project.chat + route, timeout=60).status_code == 404
    assert httpx.post(f"{project.chat}/models?url=file:///tmp", timeout=60).status_code in (404, 405)
    listening = {
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in inside(project, "chat-cpu", "cat", f"/proc/net/{table}").splitlines()[1:]
        if line.split()[3] == LISTENING
    }
    ports = {int(address.split(":")[1], 16) for address in listening if not address.startswith("0B00007F")}
    assert ports == {8080, 8082}, "Docker's own resolver on 127.0.0.11 is the only other listener"
    ask = "import http.client as h; c = h.HTTPConnection('chat', 8080); c.request('GET', '/models')"
    answer = inside(project, "denoiser", "python3", "-c", f"{ask}; print(c.getresponse().status)")
    assert answer.strip() == "404"


def test_a_second_up_changes_nothing(project: Project) -> None:
    before = {service: project.container(service).id for service in SERVICES}
    project.up()
    assert {service: project.container(service).id for service in SERVICES} == before


def answers(url: str, route: str, body: object) -> bool:
    try:
        return httpx.post(url + route, json=body, timeout=120).status_code == 200
    except httpx.HTTPError:
        return False


def await_true(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


KILL = """
for process in /proc/[0-9]*; do
  if tr '\\0' ' ' < "$process/cmdline" | grep -q -e "$0"; then kill -9 "${process#/proc/}"; exit; fi
done
exit 9
"""


@pytest.mark.parametrize(
    ("service", "process"),
    [
        ("chat-cpu", "^[^ ]*python [^ ]*djl_python_engine"),
        ("chat-cpu", "^[^ ]*java "),
        ("chat-cpu", "^python -m chatglm2"),
        ("denoiser", "^python -m denoiser"),
    ],
    ids=["worker", "Java", "starter", "uvicorn"],
)
def test_killed_process_comes_back_and_ping_is_true_meanwhile(
    project: Project, figures: list[str], service: str, process: str
) -> None:
    url, route, body = (
        (project.chat, "/invocations", QUESTION)
        if service == "chat-cpu"
        else (project.denoiser, "/denoise/text", TEXTS)
    )
    await_true(lambda: answers(url, route, body), "it does not answer before")
    assert execute(project.container(service), "sh", "-c", KILL, process)[0] == 0
    killed = time.monotonic()
    await_true(lambda: not healthy(url), "ping says healthy though it cannot answer")
    noticed = time.monotonic()
    await_true(lambda: healthy(url), "it does not come back")
    back = time.monotonic()
    assert answers(url, route, body), "ping says healthy, but a request fails"
    figures.append(
        f"kill -9 {process}: /ping failed after {noticed - killed:.1f} s, it answered again after {back - killed:.1f} s"
    )


def test_compose_stops_in_order(project: Project) -> None:
    """The last test of these services, which it stops."""
    project.run("stop")
    codes = {service: project.container(service).attrs["State"]["ExitCode"] for service in SERVICES}
    assert codes == dict.fromkeys(SERVICES, 0)
