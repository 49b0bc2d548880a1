"""Runs the chat service behind DJL Serving: finds the release, configures it for the open, starts and stops it.

Only the inference port is reachable from outside; management listens on a Unix socket in a private folder. On SIGTERM
requests in flight finish before Java hears of it.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import Progress

from chatglm2.control import Worker
from chatglm2.errors import SetupError
from chatglm2.files import alone_in, sha256, whole
from chatglm2.settings import Settings

RELEASE = "https://publish.djl.ai/djl-serving/serving-0.36.0.tar"
RELEASE_SHA256 = "f91e90522f38a8c86172c34620d88202e7222233804a240f05d10c51b72085c0"
"""Of the archive at `RELEASE`, from the Homebrew formula djl-serving."""

_ENDING_SECONDS = 1
"""For requests that did not finish in time to end."""

FLUSH_SECONDS = 1
"""For Java to write what the worker has just finished; it drops that too when it is stopped."""

MODEL_FOLDER = Path(__file__).parents[1]

_JAVA_OPTS = "-XX:+UseSerialGC -Xms64m"
"""Where JAVA_OPTS says nothing. Java only passes on what others make: its own choice, G1 in a heap that begins with a
64th of the machine's memory, takes twice the memory and is not faster."""


def find_release(given: Path | None, cache: Path) -> Path:
    """Absolute path of DJL Serving: `given` (an unpacked release or its archive), else the official one, fetched once.

    Raises SetupError.
    """
    cache = cache.absolute()
    if given is None or given.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with alone_in(cache, Console(stderr=True)):
                return _unpacked(given or _fetched(cache), cache)
        except OSError as error:
            raise SetupError(
                f"DJL Serving cannot be kept in {cache}: {error}; choose another CHAT_CACHE_DIR"
            ) from error
    if not (given / "bin" / "serving").is_file():
        raise SetupError(
            f"DJL_SERVING_HOME is {given}, which holds no bin/serving; name the unpacked release or its .tar"
        )
    return given.absolute()


def check_java() -> None:
    """Raises SetupError unless Java 17 or later answers."""
    java = Path(os.environ["JAVA_HOME"]) / "bin" / "java" if "JAVA_HOME" in os.environ else Path("java")
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        answer = ""
    version = re.search(r'version "(\d+)', answer)
    if version is None or int(version[1]) < 17:
        raise SetupError("DJL Serving needs Java 17 or later; on Debian: apt-get install openjdk-17-jre-headless")


async def run(release: Path, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. The exit status: 0 when told to stop and all requests have finished.

    A server whose worker died is started again. DJL could restart the worker by itself, but answers 200 to `/ping` and
    400 to requests while it loads; a closed port tells the truth.
    """
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    while (status := await _serve(release, settings, told)) is None:
        print("chatglm2: the worker died; starting DJL Serving again", file=sys.stderr, flush=True)
    return status


async def _serve(release: Path, settings: Settings, told: asyncio.Event) -> int | None:
    """One life of the server: its exit status, or None where it should have another."""
    with tempfile.TemporaryDirectory(prefix="chat-") as name:
        folder = Path(name)
        worker = Worker(folder / "control")
        server = await asyncio.create_subprocess_exec(
            release / "bin" / "serving",
            "-f",
            _configure(folder, settings),
            env=_environment(release, folder, settings),
            cwd=folder,  # DJL Serving also looks for models where it is started
            start_new_session=True,  # a Ctrl-C is for this process, which stops the others in order
        )
        ended, gone = asyncio.create_task(server.wait()), asyncio.create_task(worker.gone())
        stop = asyncio.create_task(told.wait())
        await asyncio.wait((ended, gone, stop), return_when=asyncio.FIRST_COMPLETED)
        finished = not stop.done() or await worker.drain(settings.drain_seconds + _ENDING_SECONDS)
        if stop.done() and worker.was_ready:
            await asyncio.sleep(FLUSH_SECONDS)
        await _end(server, ended)
        gone.cancel()
        if not stop.cancel():
            if not finished:
                print("chatglm2: the worker did not end its requests in time; they were dropped", file=sys.stderr)
            return 0 if finished else 1
        return None if worker.was_ready else 1


async def _end(server: asyncio.subprocess.Process, ended: "asyncio.Task[int]") -> None:
    """Stop the server if it runs, and whatever is left of its session."""
    if not ended.done():
        server.terminate()
        await asyncio.wait((ended,), timeout=5)
    _kill_session(server.pid)
    await ended


def _kill_session(leader: int) -> None:
    """End what is left of the server and its workers."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _configure(folder: Path, settings: Settings) -> Path:
    """Write DJL's own configuration into the private `folder`."""
    for name in ("models", "plugins", "tmp"):
        (folder / name).mkdir()
    lines = [
        f"inference_address=http://{settings.host}:{settings.port}",
        f"management_address=unix:{folder}/management",
        f"load_models=chatglm2=file://{MODEL_FOLDER}",
        f"model_store={folder}/models",
        f"plugin_folder={folder}/plugins",
        # the service refuses a body over its limit itself, with a reply that says so; this only bounds Java's memory
        f"max_request_size={settings.max_body_bytes * 4}",
    ]
    file = folder / "config.properties"
    file.write_text("\n".join(lines) + "\n")
    return file


def _environment(release: Path, folder: Path, settings: Settings) -> dict[str, str]:
    options = [os.environ.get("JAVA_OPTS") or _JAVA_OPTS, f"-Djava.io.tmpdir={folder / 'tmp'}"]
    options.append(f"-Dlog4j2.configurationFile=file:{release}/conf/log4j2-plain.xml")
    # DJL takes HF_MODEL_ID as the folder to serve with code of its own, so the worker gets it by another name
    inherited = {name: value for name, value in os.environ.items() if name != "HF_MODEL_ID"}
    return inherited | {
        "JAVA_OPTS": " ".join(options),
        "MODEL_SERVER_HOME": str(folder),
        "DJL_CACHE_DIR": str(folder / "djl"),
        "PYTHON_EXECUTABLE": sys.executable,
        "SERVING_FAIL_FAST": "true",
        "CHAT_CONTROL_SOCKET": str(folder / "control"),
        "CHAT_HOST": settings.host,
        "CHAT_MODEL": settings.model,
        "CHAT_SERVED_MODEL_NAME": settings.served_name,
        "CHAT_DTYPE": settings.dtype,
    }


def _unpacked(archive: Path, cache: Path) -> Path:
    """Folder with the content of `archive`, kept in the cache under its checksum."""
    folder = cache / f"djl-serving-{sha256(archive)[:16]}"
    if not folder.is_dir():
        _unpack(archive, folder)
    found = next(folder.glob("*/bin/serving"), None)
    if found is None:
        raise SetupError(f"{archive} holds no bin/serving; name an archive of DJL Serving")
    return found.parents[1]


def _unpack(archive: Path, folder: Path) -> None:
    """All of `archive` into `folder`, or nothing."""
    try:
        with whole(folder) as partial, tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise SetupError(f"{archive} cannot be unpacked: {error}") from None


def _fetched(cache: Path) -> Path:
    archive = cache / RELEASE.rsplit("/", 1)[-1]
    if archive.is_file() and sha256(archive) == RELEASE_SHA256:
        return archive
    print(f"fetching {RELEASE}", file=sys.stderr, flush=True)
    partial = archive.with_suffix(".partial")
    try:
        with httpx.stream("GET", RELEASE, follow_redirects=True, timeout=60) as response:
            response.raise_for_status()
            _save(response, partial)
    except httpx.HTTPError as error:
        raise SetupError(
            f"DJL Serving could not be fetched ({error}); fetch {RELEASE} yourself and set DJL_SERVING_HOME to it"
        ) from None
    if (found := sha256(partial)) != RELEASE_SHA256:
        partial.unlink()
        raise SetupError(f"{RELEASE} has checksum {found}, expected {RELEASE_SHA256}; it was not kept")
    partial.rename(archive)
    return archive


def _save(response: httpx.Response, file: Path) -> None:
    size = int(response.headers.get("content-length", 0)) or None
    with file.open("wb") as out, Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("DJL Serving", total=size)
        for chunk in response.iter_bytes():
            out.write(chunk)
            bar.advance(task, len(chunk))
