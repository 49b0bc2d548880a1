"""A Docker daemon, the image built in it, and the folders of models that containers mount. All are real.

A daemon that is reachable is used; else one is started in a temporary folder, and is gone with its data at the end.
"""

import contextlib
import functools
import gc
import http.server
import os
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from denoiser.model.encoder import find_model

REPOSITORY = Path(__file__).parents[2]
PACKAGES = "docker.io iptables debootstrap docker-registry"
"""Debian's packages that the suite needs."""

BASE = "djl-container-base:latest"
IMAGE = "djl-container:test"
CA = Path("/etc/ssl/certs/ca-certificates.crt")
START_SECONDS = 120
DISK = 20e9
"""Bytes that the build, its layers and their copy in a registry take: 17e9 at most (measured), and some room."""


class MissingError(Exception):
    """Something the suite cannot install by itself; one line that says what."""


@contextlib.contextmanager
def daemon() -> Iterator[None]:
    """Point DOCKER_HOST at a daemon. Raises MissingError where there is none and none can be started."""
    if _reachable():
        yield
        return
    _require("dockerd", "iptables")
    if os.geteuid() != 0:
        raise MissingError(
            "no Docker daemon is reachable, and only root can start one; set DOCKER_HOST, or run as root"
        )
    if (free := shutil.disk_usage("/var/tmp").free) < DISK:
        raise MissingError(f"/var/tmp has {free / 1e9:.0f} GB free, and images need {DISK / 1e9:.0f}; make room")
    folder = Path(tempfile.mkdtemp(prefix="djl-container-docker-", dir="/var/tmp"))
    address = f"unix://{folder}/sock"
    command = ["dockerd", f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "-H", address], stdout=log, stderr=log)
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = address
    try:
        _await_daemon(process, folder / "log")
        yield
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before


def _reachable() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK does not close a socket that finds nobody
        try:
            with contextlib.closing(docker.from_env()) as client:
                return bool(client.ping())
        except DockerException:
            return False
        finally:
            gc.collect()


def _await_daemon(process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + START_SECONDS
    while not _reachable():
        if process.poll() is not None or time.monotonic() > limit:
            raise MissingError(f"dockerd does not start here: {log.read_text().splitlines()[-1]}")
        time.sleep(0.2)


def _require(*commands: str) -> None:
    if missing := [command for command in commands if shutil.which(command) is None]:
        raise MissingError(f"{', '.join(missing)} not found; on Debian: apt-get install {PACKAGES}")


def builder() -> str:
    """A docker command that builds with BuildKit: one with buildx, or one so old that it needs none."""
    for command in filter(None, (shutil.which("docker"), "/usr/bin/docker")):
        with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
            version = _output(command, "version", "--format", "{{.Client.Version}}")
            if int(version.split(".")[0]) >= 23:
                _output(command, "buildx", "version")
            return command
    raise MissingError(f"no docker command that can build with BuildKit; on Debian: apt-get install {PACKAGES}")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def base_image() -> str:
    """The image to build from: BASE_IMAGE, else a minimal Debian 12 made here, like the published slim one."""
    if "BASE_IMAGE" in os.environ:
        return os.environ["BASE_IMAGE"]
    with contextlib.closing(docker.from_env(timeout=600)) as client:
        if not client.images.list(BASE):
            _make_base(client)
    return BASE


def _make_base(client: docker.DockerClient) -> None:
    _require("debootstrap")
    with tempfile.TemporaryDirectory(prefix="base-", dir="/var/tmp") as name:
        root, archive = Path(name) / "root", Path(name) / "base.tar"
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root], check=True, stdout=subprocess.DEVNULL)
        _slim(root)
        subprocess.run(["tar", "--numeric-owner", "-C", root, "-cf", archive, "."], check=True)
        client.api.import_image_from_file(str(archive), *BASE.split(":"))


def _slim(root: Path) -> None:
    """As the published image: no manual pages or documentation, now or later."""
    rules = [f"path-exclude /usr/share/{name}/*\n" for name in ("man", "doc", "info", "locale")]
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text("".join(rules))
    for name in ("usr/share/man", "usr/share/doc", "usr/share/info", "usr/share/locale", "var/lib/apt/lists"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()


@dataclass(frozen=True)
class Build:
    """One build: how long it took, and its steps that were not taken from the cache."""

    seconds: float
    done: list[str]


def build(context: Path, arguments: dict[str, str]) -> Build:
    """Build the Dockerfile of `context`; `arguments` are build arguments."""
    command = [builder(), "build", "--network", "host", "--progress", "plain", "-t", IMAGE]
    command += ["--secret", f"id=ca,src={CA if CA.is_file() else '/dev/null'}"]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    started = time.monotonic()
    ran = subprocess.run(
        [*command, context], env=os.environ | {"DOCKER_BUILDKIT": "1"}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return Build(time.monotonic() - started, _done(ran.stderr))


def _done(progress: str) -> list[str]:
    """Instructions that ran, from lines such as `#9 [stage-1 2/9] RUN ...` and `#9 CACHED`."""
    names: dict[str, str] = {}
    cached: set[str] = set()
    for number, _, rest in (line.partition(" ") for line in progress.splitlines()):
        if rest.startswith("[") and "]" in rest and not rest.startswith("[internal]"):
            names.setdefault(number, rest.split("] ", 1)[-1])
        if rest == "CACHED":
            cached.add(number)
    return [name for number, name in names.items() if number not in cached and not name.startswith("FROM ")]


@contextlib.contextmanager
def build_arguments() -> Iterator[dict[str, str]]:
    """What differs here from a user's build: base image, mirror, and the archive that DJL_SERVING_HOME names."""
    arguments = {"BASE_IMAGE": base_image()}
    arguments |= {name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST") if name in os.environ}
    archive = Path(os.environ.get("DJL_SERVING_HOME", ""))
    if not archive.is_file():
        yield arguments
        return
    digest = _output("sha256sum", str(archive)).split()[0]
    handler = functools.partial(_Quiet, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/{archive.name}"
        yield arguments | {"DJL_URL": url, "DJL_SHA256": digest}
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def mounted_models(folder: Path, chat: Path) -> Path:
    """A folder as SageMaker mounts it on /opt/ml/model: chat's checkpoint, and the denoiser's encoder below it."""
    shutil.copytree(chat, folder)
    shutil.copytree(find_model(), folder / "encoder")
    subprocess.run(["chmod", "-R", "a+rX", folder, folder.parent], check=True)
    return folder
