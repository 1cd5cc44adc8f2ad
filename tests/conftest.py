"""What every test may ask for: real servers of its own, fresh databases, processes that end with
it.

Servers start when the first test asks and end with the run. A missing real component is a loud
skip, and an error when CI is set.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import ssl
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx._transports.default
import hypothesis
import pytest
import uvloop

from tests.support.processes import Processes
from tools.processes import free_port as find_free_port
from tools.servers import MariaDB, Redis, server_folder

# Modules of helpers whose assertions explain themselves like those of tests.
pytest.register_assert_rewrite(
    "tests.builders",
    "tests.e2e.crashes",
    "tests.e2e.mesh_processes",
    "tests.e2e.payment_crashes",
    "tests.e2e.order_crashes",
    "tests.e2e.merchant_crashes",
)

FOLDERS = ("unit", "contract", "integration", "e2e", "chaos")
_SETTINGS = (
    "PAYMESH_",
    "PAYMENT_RPC_",
    "ORDER_RPC_",
    "SECKILL_RPC_",
    "MERCHANT_RPC_",
    "GATEWAY_",
    "SANDBOX_",
    "CONSUL_HTTP_",
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy")
# PMTEST_PROOF tells the processes of `pytest -n`, which find no PAYMESH_ variable any more.
PROOF = bool(os.environ.get("PAYMESH_PROOF") or os.environ.get("PMTEST_PROOF"))
if PROOF:
    os.environ["PMTEST_PROOF"] = "1"
DRAWN_SHARE = 0.1


def _forget_surroundings() -> None:
    """Removes settings of the shell that started the tests, before anything reads them; traffic
    goes to loopback only, so no proxy either.
    """
    for name in list(os.environ):
        if name.startswith(_SETTINGS) or name.lower() in _PROXIES:
            del os.environ[name]


def _read_authorities_once() -> None:
    """Lets all clients of httpx share the certificates of the world's authorities: each would read
    them anew, which takes 20 ms, and most tests make a few clients that speak to loopback.
    """
    transport: Any = httpx._transports.default
    create = transport.create_ssl_context
    shared: list[ssl.SSLContext] = []

    def create_or_share(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
        if verify is not True or cert is not None:
            return create(verify=verify, cert=cert, trust_env=trust_env)
        if not shared:
            shared.append(create(trust_env=False))
        return shared[0]

    transport.create_ssl_context = create_or_share


_forget_surroundings()
_read_authorities_once()
# uvloop starts a process by fork(), and what gRPC does there while its threads run has ended a
# child by SIGSEGV before it became curl.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Chooses what a run tries of sets that are too long for every run: mutants, crash points, faults.
# Another one each time; the processes of one run share it.
SEED = os.environ.setdefault("PMTEST_SEED", f"{datetime.now(UTC):%Y%m%d%H%M%S}")
# No deadline per example: two busy cores are no defect. Always the same examples in CI, so that a
# red run can be repeated.
hypothesis.settings.register_profile(
    "paymesh",
    deadline=None,
    derandomize=bool(os.environ.get("CI")) and not PROOF,
    max_examples=2000 if PROOF else 100,
)
hypothesis.settings.load_profile("paymesh")


def pytest_report_header() -> str:
    """How to repeat this run."""
    return f"PMTEST_SEED={SEED}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test's marker is its folder. Of the cases of a test that all run on SQLite, a share runs on
    MariaDB; a test with the marker `one_database` and no other cases runs on one of the two; of a
    test with the marker `drawn(n)` so many cases run. All of them do in the proof, and when a test
    is named.
    """
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else ""
        if folder in FOLDERS:
            item.add_marker(folder)
    if PROOF or any("::" in argument for argument in config.args):
        return
    left_out = _not_drawn(items)
    # afterwards: among those that are left, or fewer than n might run
    left_out |= _cases_not_drawn([item for item in items if item.nodeid not in left_out])
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]


def _not_drawn(items: Sequence[pytest.Item]) -> set[str]:
    """Of each test, the cases that run on MariaDB another time; at least one runs now. A test with
    the marker `one_database` whose only case that is, on one of the two.
    """
    all_names = {item.nodeid for item in items}
    cases: dict[str, list[str]] = {}
    on_one_database: set[str] = set()
    for item in items:
        name = item.nodeid
        if "mariadb" in name and name.replace("mariadb", "sqlite") in all_names:
            test = name.partition("[")[0]
            cases.setdefault(test, []).append(name)
            if item.get_closest_marker("one_database") is not None:
                on_one_database.add(test)
    left_out: set[str] = set()
    for test, of_test in cases.items():
        chance = random.Random(f"{SEED} {test}")
        if test in on_one_database and len(of_test) == 1:
            left_out.add(chance.choice([of_test[0], of_test[0].replace("mariadb", "sqlite")]))
        else:
            count = len(of_test) - math.ceil(len(of_test) * DRAWN_SHARE)
            left_out.update(chance.sample(of_test, count))
    return left_out


def _cases_not_drawn(items: Sequence[pytest.Item]) -> set[str]:
    """Of each test that costs seconds for each of its many cases, those that run another time."""
    counts: dict[str, int] = {}
    cases: dict[str, list[str]] = {}
    for item in items:
        if (drawn := item.get_closest_marker("drawn")) is not None:
            test = item.nodeid.partition("[")[0]
            counts[test] = drawn.args[0]
            cases.setdefault(test, []).append(item.nodeid)
    return {
        name
        for test, of_test in cases.items()
        for name in random.Random(f"{SEED} cases of {test}").sample(
            of_test, max(0, len(of_test) - counts[test])
        )
    }


def pytest_collection_finish() -> None:
    """Nine thousand collected tests are no garbage: it need not be looked for among them."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's loop; `@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])` runs a test on
    the loop of production too.
    """
    marker = item.get_closest_marker("asyncio")
    if marker is None or "loop_factories" not in marker.kwargs:
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of the logs of the processes it is about."""
    report = yield
    processes = getattr(item, "funcargs", {}).get("processes")
    if report.failed and isinstance(processes, Processes):
        report.sections += [
            (f"log of {process.name} ({process.log_path})", process.log_tail())
            for process in processes.started
        ]
    return report


@pytest.fixture(scope="session")
def proof() -> bool:
    """True under `make proof`: crash matrices and round counts run whole."""
    return PROOF


@pytest.fixture(scope="session")
def rounds() -> Callable[[int, int], int]:
    """`rounds(quick, whole)`: how often a test repeats itself, in `make test` and in `make
    proof`.
    """
    return lambda quick, whole: whole if PROOF else quick


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listens on."""
    return find_free_port()


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """`free_ports(n)`: that many different ones."""
    return lambda count: [find_free_port() for _ in range(count)]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes that end with the test; their logs lie in `tmp_path` and a failure shows
    them.
    """
    started = Processes(tmp_path / "logs")
    yield started
    started.destroy()
    started.check_refusals()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDB]:
    """The MariaDB of this test run. Do not kill it: `own_mariadb` is for that."""
    server = MariaDB(server_folder())
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def own_mariadb() -> Iterator[MariaDB]:
    """A MariaDB of this test alone (0.6 s), to be killed, frozen and started again."""
    server = MariaDB(server_folder())
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def mariadb_url_factory(mariadb_server: MariaDB) -> Iterator[Callable[[], str]]:
    """`mariadb_url_factory()`: the URL of a fresh, empty MariaDB database; as many as the test
    needs, dropped after it.
    """
    urls: list[str] = []

    def fresh() -> str:
        urls.append(mariadb_server.create_database())
        return urls[-1]

    yield fresh
    for url in urls:
        mariadb_server.drop_database(url)


@pytest.fixture(params=["sqlite", "mariadb"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Runs the test once per kind of database."""
    return str(request.param)


@pytest.fixture
def database_url_factory(
    dialect: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], str]:
    """`database_url_factory()`: the URL of a fresh, empty database of the present `dialect`; as
    many as the test needs (one per service).
    """
    if dialect == "mariadb":
        factory: Callable[[], str] = request.getfixturevalue("mariadb_url_factory")
        return factory
    numbers = iter(range(1, 1000))
    return lambda: f"sqlite+aiosqlite:///{tmp_path / f'database-{next(numbers)}.db'}"


@pytest.fixture
def database_url(database_url_factory: Callable[[], str]) -> str:
    """The URL of a fresh, empty database; the test runs once on SQLite and once on MariaDB."""
    return database_url_factory()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """The Redis of this test run. Do not kill it: `own_redis` is for that."""
    server = Redis(server_folder())
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis of this test alone, to be killed, frozen and started again."""
    server = Redis(server_folder())
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of an empty Redis."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session")
def consul_agent() -> Iterator[Any]:
    """The Consul agent of this test run; what it is stands in tests/support/consul_agent.py."""
    from tests.support.consul_agent import running_agent

    with running_agent() as agent:
        yield agent
