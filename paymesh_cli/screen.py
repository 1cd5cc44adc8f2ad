"""What a person sees of `paymesh up`: a line with a spinner per process on a terminal, plain lines
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from paymesh_cli.supervisor.installation import Installation, RunningMesh
from paymesh_cli.supervisor.plan import MeshPlan
from paymesh_cli.supervisor.processes import Event, EventKind


class Screen:
    """Shows the start, the life and the end of a mesh."""

    def __init__(self, console: Console, installation: Installation, plan: MeshPlan) -> None:
        self._console = console
        self._installation = installation
        self._plan = plan
        self.pids_changed: Callable[[], None] = lambda: None
        self._phase = "starting"
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<16}"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {
            process.name: self._progress.add_task(process.name, total=1, start=False, state="waits")
            for process in plan.processes
        }
        for warning in plan.warnings:
            console.print(f"[bold yellow]WARNING[/] {escape(warning)}")
        self._progress.start()

    def on_event(self, event: Event) -> None:
        """Shows what happened to a process."""
        if event.kind is EventKind.STARTED:
            self.pids_changed()
        if self._phase == "starting" and not self._progress.disable:
            self._advance(event)
        elif line := self._line(event):
            self._console.print(line, soft_wrap=True)

    def on_line(self, name: str, line: str) -> None:
        """Shows what a process printed."""
        self._console.print(f"[dim]{name:<14}[/] {escape(line)}", soft_wrap=True)

    def schema_done(self) -> None:
        """The databases are ready."""
        if self._progress.disable:
            self._console.print("databases ready")

    def show_urls(self) -> None:
        """Where everything is, and what to do next."""
        self._phase = "running"
        self._progress.stop()
        running = self._plan.running
        table = Table.grid(padding=(0, 2))
        for name, value in self._places(running):
            table.add_row(f"[bold]{name}[/]", value)
        self._console.print("\n[bold green]paymesh is up[/]\n")
        self._console.print(table, soft_wrap=True)
        self._console.print(
            "\nbuy something   [cyan]make demo[/]          in a second terminal\n"
            "a flash sale    [cyan]make demo-seckill[/]  ten thousand buyers, a hundred units\n"
            "real channels   [cyan]make demo-channels[/] once through each simulated provider\n"
            "a user token    [cyan].venv/bin/paymesh token --sub alice[/]\n"
            "stop            [cyan]Ctrl-C[/]\n"
        )

    def _places(self, running: RunningMesh) -> Iterator[tuple[str, str]]:
        gateway = running.urls["gateway"]
        yield "gateway", gateway
        yield "API docs", f"{gateway}/docs"
        yield "OpenAPI", f"{gateway}/openapi.json"
        yield "health", f"{gateway}/healthz {gateway}/readyz"
        yield "sandbox, cashier", running.urls["sandbox"]
        for provider, url in running.providers.items():
            yield f"simulated {provider}", url
        for service, addresses in running.grpc.items():
            yield f"gRPC {service}", " ".join(addresses)
        for name, address in running.metrics.items():
            yield f"metrics {name}", f"http://{address}/metrics"
        if running.redis_url:
            # without the password
            yield (
                "redis",
                running.redis_url.rpartition("@")[2].removeprefix("redis://").partition("/")[0],
            )
        else:
            yield "redis", "[bold yellow]none: no caches, no flash sale[/]"
        yield "logs", str(self._installation.log_dir)

    def show_failure(self, problem: Exception) -> None:
        """Why the mesh did not start."""
        self._progress.stop()
        self._console.print(
            f"[bold red]the mesh did not start[/]\n{escape(str(problem))}", soft_wrap=True
        )

    def stopping(self) -> None:
        """Everything is being stopped."""
        self._phase = "stopping"
        self._progress.stop()
        self._console.print("stopping …")

    def stopped(self) -> None:
        """Nothing runs any more."""
        self._console.print("stopped")

    def _advance(self, event: Event) -> None:
        task = self._tasks[event.name]
        match event.kind:
            case EventKind.STARTED:
                self._progress.start_task(task)
                self._progress.update(task, state=f"starts (process {event.pid})")
            case EventKind.HEALTHY:
                self._progress.update(task, completed=1, state="[green]healthy[/]")
            case _:
                self._progress.update(
                    task, state=f"[red]{event.kind.lower()} {escape(event.detail)}[/]"
                )

    def _line(self, event: Event) -> str:
        match event.kind:
            case EventKind.STARTED if self._phase == "running":
                return f"[yellow]{event.name}[/] started again (process {event.pid})"
            case EventKind.HEALTHY:
                return f"[green]✓[/] {event.name:<16} healthy after {event.seconds:.1f} s"
            case EventKind.DIED:
                return (
                    f"[bold red]{event.name} died[/] after {event.seconds:.1f} s: "
                    f"{escape(event.detail)}; "
                    f"see {escape(str(self._installation.log_dir / event.name))}.log"
                )
            case EventKind.ENDED:
                return (
                    f"[yellow]{event.name}[/] ended in good order after {event.seconds:.1f} "
                    f"s, somebody asked it to; it is started again"
                )
            case EventKind.KILLED:
                return (
                    f"[yellow]{event.name}[/] had not stopped {escape(event.detail)} and was "
                    f"killed; what it waited for stands in "
                    f"{escape(str(self._installation.log_dir / event.name))}.log"
                )
            case _:
                return ""
