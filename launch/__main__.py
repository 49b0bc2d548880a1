"""`python -m launch`: prepare the models, start chat and denoiser, wait until both answer, stop both on Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import typer

from launch.examples import examples

LOGS = Path("logs")
START_SECONDS = 900
STOP_SECONDS = 30


class Stop:
    """Whether a signal or a lost reader has said so. No `threading.Event`, whose lock a handler may find held by the
    one it interrupts: `make` passes on a signal that the launcher has had already."""

    told = False

    def wait(self, seconds: float) -> bool:
        """Whether it has been said by then."""
        if not self.told:
            time.sleep(seconds)
        return self.told

    def listen(self) -> None:
        """Take the signals of Ctrl-C, of a closed terminal, and SIGTERM, from now on."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup has it ignored
                signal.signal(number, self._hear)

    def say(self, text: str) -> None:
        """Print it. A hung-up terminal, or a pipe that nobody reads any more, says stop."""
        try:
            print(text, flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again at its end
            self.told = True

    def _hear(self, *_: object) -> None:
        self.told = True


@dataclass
class Service:
    """One process, its port and its log."""

    name: str
    port: int
    command: list[str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        """What it prints."""
        return LOGS / f"{self.name}.log"

    def start(self) -> None:
        """Start it in a session of its own, so that a Ctrl-C here reaches it only through `stop`."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def healthy(self) -> bool:
        """Whether it says that it can answer."""
        try:
            # a proxy that the environment names is not for this machine's own ports
            return httpx.get(f"http://127.0.0.1:{self.port}/ping", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """Let it finish its requests; end it if it takes too long."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def serve(
    djl: Annotated[bool, typer.Option(help="Put chat behind DJL Serving (needs Java 17).")] = False,
    chat_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of chat.")] = 8080,
    denoiser_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of denoiser.")] = 8000,
) -> None:
    """Start chat and denoiser on this machine and wait until both answer."""
    if chat_port == denoiser_port:
        raise _refused(f"port {chat_port} is given to both: choose another one, make serve DENOISER_PORT=NUMBER")
    python = sys.executable
    chat = Service("chat", chat_port, [python, "-m", "chatglm2", "djl" if djl else "serve", "--port", str(chat_port)])
    denoiser = Service("denoiser", denoiser_port, [python, "-m", "denoiser", "serve", "--port", str(denoiser_port)])
    services, stop = [chat, denoiser], Stop()
    for service in services:
        _require_free(service)
        _require_log(service)
    stop.listen()
    if not _prepare([python, "-m", "chatglm2", "prepare"], stop):
        raise typer.Exit(0 if stop.told else 1)
    raise typer.Exit(_run(services, stop))


def _prepare(command: list[str], stop: Stop) -> bool:
    """Whether it was done before it was told to stop; a Ctrl-C reaches it as SIGTERM."""
    with subprocess.Popen(command, start_new_session=True) as process:
        while process.poll() is None:
            if stop.wait(0.1):
                process.terminate()
                process.wait()
    return process.returncode == 0 and not stop.told


def _run(services: list[Service], stop: Stop) -> int:
    try:
        for service in services:
            service.start()
        if not _wait_healthy(services, stop):
            return 0 if stop.told else 1
        stop.say(examples(services[0].port, services[1].port, os.environ))
        while not stop.wait(0.5):
            for service in services:
                if not service.running():
                    _explain(service)
                    return 1
        return 0
    finally:
        stoppers = [threading.Thread(target=service.stop) for service in services]
        for stopper in stoppers:
            stopper.start()
        stop.say("stopping; requests in flight finish first")
        for stopper in stoppers:
            stopper.join()


def _wait_healthy(services: list[Service], stop: Stop) -> bool:
    started, waiting = time.monotonic(), list(services)
    stop.say(f"starting {' and '.join(service.name for service in services)}; logs are in {LOGS}/")
    while waiting and not stop.wait(0.3):
        for service in list(waiting):
            if not service.running() or time.monotonic() - started > START_SECONDS:
                _explain(service)
                return False
            if service.healthy():
                waiting.remove(service)
                stop.say(f"{service.name} answers on port {service.port} after {time.monotonic() - started:.0f} s")
    return not waiting


def _explain(service: Service) -> None:
    """Say that it failed, with the end of its log."""
    state = "does not answer" if service.running() else "ended by itself"
    lines = service.log.read_text(errors="replace").splitlines()[-10:]
    print(f"{service.name} {state}; the end of {service.log}:", *lines, sep="\n  ", file=sys.stderr, flush=True)


def _require_free(service: Service) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", service.port))
        except OSError as error:
            option = f"{service.name.upper()}_PORT"
            raise _refused(
                f"port {service.port} for {service.name} is not free ({error.strerror}): stop what uses it, or choose "
                f"another one: make serve {option}=NUMBER"
            ) from None


def _require_log(service: Service) -> None:
    try:
        LOGS.mkdir(exist_ok=True)
        service.log.open("ab").close()
    except OSError as error:
        raise _refused(
            f"{service.log} cannot be written ({error.strerror}): remove it, or give it to yourself"
        ) from None


def _refused(text: str) -> typer.Exit:
    print(text, file=sys.stderr)
    return typer.Exit(1)


if __name__ == "__main__":
    typer.run(serve)
