"""The rules of the house that a machine can check and ruff, mypy and import-linter cannot.

Every exception stands here with its reason, and an exception that is no longer needed fails too.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mesh.errors import MeshError, default_message
from tests.support.sources import parsed
from tools.servers import missing

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = (
    "mesh",
    "payment_rpc",
    "order_rpc",
    "seckill_rpc",
    "merchant_rpc",
    "gateway",
    "sandbox",
    "paymesh_cli",
)
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400

# Where the errors.proto of a package's refusals lies. What is raised for everybody is in common.
COMMON = "paymesh.common.v1"
ERROR_DOMAINS = {
    "mesh": (COMMON,),
    "gateway": (COMMON,),
    "paymesh_cli": (COMMON,),
    "payment_rpc": ("paymesh.payment.v1", COMMON),
    "order_rpc": ("paymesh.order.v1", COMMON),
    "seckill_rpc": ("paymesh.seckill.v1", COMMON),
    "merchant_rpc": ("paymesh.merchant.v1", COMMON),
}

# What is longer than the limits, with the reason. One that has become shorter fails too.
LONG_FUNCTIONS = {
    "bench/large_rows.py order_rows": "the SQL of one table's rows, column by column",
    "bench/large_rows.py payment_rows": "the SQL of one table's rows, column by column",
    "merchant_rpc/__main__.py run": "composition root: one argument a line",
    "merchant_rpc/app.py __init__": "the composition root: one list of use cases",
    "order_rpc/__main__.py run": "composition root: one argument a line",
    "payment_rpc/__main__.py run": "composition root: one argument a line",
    "seckill_rpc/__main__.py run": "composition root: one argument a line",
    "order_rpc/app.py __init__": "composition root: one argument a line",
    "order_rpc/audit/checks.py _reservations": "a list of queries",
    "payment_rpc/app.py __init__": "the composition root: one list of use cases",
    "tests/builders/payment.py payment_world": "opens the parts of one service in their order",
    "tests/e2e/seckill_life.py _planted": "a table: one corruption of each kind",
    "tests/e2e/test_mesh_static.py test_a_flash_sale_is_bought_over_rest_from_the_click_to_paid": "one purchase, step by step",
    "tests/builders/gateway.py gateway_world": "opens the parts of one service in their order",
    "tests/builders/all_services.py kinds": "a table: one caller of each kind",
    "tests/integration/payment/test_db_plans.py db": "the rows of one large database",
    "tests/integration/order/test_order_list.py full": "the rows of one list",
    "tests/integration/order/test_order_process.py test_kill_9_at_each_crash_point_loses_and_doubles_nothing": "one run through all crash points",
    "tests/integration/payment/test_payment_charge.py test_a_good_card_pays_the_order": "everything that one charge leaves",
    "tests/integration/payment/test_refunds.py test_a_bounce_whose_success_was_never_heard_is_both": "everything that one bounce leaves",
    "tests/protocol_model/search.py explore": "one search loop",
    "tests/unit/gateway/test_gateway_codec.py every_type_file": "a table: one field of each type",
    "tests/unit/payment/test_payment_facts.py table": "a table: one line per state and fact",
}
LONG_FILES = {
    "bench/large_rows.py": "the SQL of all tables' rows",
    "gateway/protocol.py": "all that touches uvicorn's private classes (docs/decisions/0012)",
    "payment_rpc/audit/checks.py": "a list of queries, in groups",
    "order_rpc/tables.py": "the declaration of all tables",
    "payment_rpc/tables.py": "the declaration of all tables",
}

AMBIENT = {
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "time.time",
    "time.time_ns",
    "uuid.uuid1",
    "uuid.uuid4",
    "os.urandom",
}
AMBIENT_MODULES = {"random", "secrets", "uuid"}
MAY_ASK_THE_SYSTEM = {
    "gateway/api_keys.py secrets": "the secret of one process, under which it keeps keys as digests",
    "mesh/clock.py time.time_ns": "the one clock",
    "mesh/logs.py datetime.now": "a log line says when the machine wrote it, whatever clock the "
    "code was given",
    "mesh/ids.py os.urandom": "identifiers are made of it",
    "mesh/trace.py random": "trace ids name calls, not things",
    "mesh/worker.py random": "spreads replicas that idle in step",
    "mesh/db/transactions.py random": "spreads transactions that met in a deadlock",
    "mesh/attempts.py random": "spreads retries",
    "mesh/client.py random": "spreads retries",
    "mesh/replicas.py random": "picks two endpoints to choose the less busy one from",
    "mesh/discovery/consul.py random": "spreads watches that ask after an outage of Consul",
    "mesh/discovery/consul_registrar.py random": "spreads servers that register after an outage of Consul",
    "payment_rpc/channels/wechat/api.py secrets": "nonces of signed requests, which name nothing",
    "seckill_rpc/redis/wakeups.py random": "spreads looks at Redis",
    "paymesh_cli/account_key_files.py secrets": "makes a key of an installation; runs in the command line "
    "only",
    "paymesh_cli/channels.py secrets": "nonces of what the command line encrypts",
    "paymesh_cli/operator.py secrets": "makes the links of operators; runs in the command line only",
    "paymesh_cli/people_keys.py secrets": "makes the keys of an installation; runs in the command line "
    "only",
    "paymesh_cli/supervisor/installation.py secrets": "makes the keys of an installation; runs in the "
    "command line only",
    "paymesh_cli/supervisor/plan.py secrets": "makes passwords for one run; runs in the command line only",
}
MAY_READ_THE_ENVIRONMENT = {
    "paymesh_cli/doctor.py": "looks for names that are misspelt",
    "mesh/process.py": "looks for names that are misspelt",
    "paymesh_cli/supervisor/plan.py": "hands the user's environment on to the processes that it starts",
    "paymesh_cli/supervisor/processes.py": "hands the user's environment on to the processes that it "
    "starts",
}
# no noun, no place
PLACELESS = {"utils", "util", "helpers", "helper", "common", "manager", "base", "impl", "misc"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def sources(*folders: str) -> tuple[Path, ...]:
    return tuple(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    return parsed(path)


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


def line_of(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 0))


def nodes(*folders: str) -> Iterator[tuple[str, ast.AST]]:
    for path in sources(*folders):
        name = relative(path)
        for node in nodes_of(path):
            yield name, node


@cache
def tracked_files() -> tuple[Path, ...]:
    try:
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as problem:
        missing("git, or a checkout,", hint=str(problem))
    return tuple(
        path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()
    )


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked_files():
        try:
            yield relative(path), path.read_text()
        except UnicodeDecodeError:
            continue


# --- form -----------------------------------------------------------------------------------------


def test_every_function_fits_a_screen() -> None:
    long = {
        f"{path} {node.name}"
        for path, node in nodes(*PACKAGES, "bench", "tools", "tests")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and "/migrations/" not in path  # a schema is a list
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == LONG_FUNCTIONS.keys()


def test_every_file_is_small_enough_to_be_read() -> None:
    long = {
        relative(path)
        for path in sources(*PACKAGES, "bench", "tools")
        if len(path.read_text().splitlines()) > FILE_LINES_MAX
    }
    assert long == LONG_FILES.keys()


def test_no_two_test_files_have_one_name() -> None:
    """Mutants and pages name a test file without its folder."""
    names = Counter(path.name for path in sources("tests") if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_measurements_and_the_product_import_no_tests() -> None:
    assert [
        relative(path)
        for path in sources(*PACKAGES, "bench", "tools")
        if re.search(r"^\s*(from|import) tests\b", path.read_text(), re.MULTILINE)
    ] == []


def test_no_test_file_is_a_library() -> None:
    """What several test files need stands in tests/builders or tests/support."""
    assert [
        f"{path} {node.module}"
        for path, node in nodes("tests", "bench", "tools")
        if isinstance(node, ast.ImportFrom) and re.search(r"(^|\.)test_\w+$", node.module or "")
    ] == []


def test_no_module_is_named_after_nothing() -> None:
    assert [
        relative(path)
        for path in sources(*PACKAGES, "bench", "tools", "tests")
        if path.stem in PLACELESS or path.parent.name in PLACELESS
    ] == []


def test_every_module_says_what_it_keeps_true() -> None:
    silent = [
        relative(path)
        for path in sources(*PACKAGES, "bench", "tools")
        if path.read_text() and not ast.get_docstring(tree_of(path))
    ]
    assert silent == []


def test_every_silenced_warning_has_a_reason() -> None:
    silenced = re.compile(
        r"#\s*(noqa|type:\s*ignore)(?P<what>:\s*[A-Z]+[0-9]+(,\s*[A-Z]+[0-9]+)*|\[[a-z-, "
        r"]+\])?(?P<reason>.*)$"
    )
    silent = []
    for path in sources(*PACKAGES, "tools"):  # mypy does not read bench
        explained: set[str] = set()  # one reason serves the rest of the file
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if match := silenced.search(line):
                if match["what"] and match["reason"].strip(" #-"):
                    explained.add(match["what"])
                elif match["what"] not in explained:
                    silent.append(f"{relative(path)}:{number}")
    assert silent == []


def test_every_todo_names_an_issue() -> None:
    word = "TO" + "DO"
    loose = [
        f"{path}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(rf"\b{word}\b(?!\(#\d+\):)", line)
        and path.endswith((".py", ".proto", ".sh", ".toml", "Makefile"))
    ]
    assert loose == []


# --- time, chance, environment --------------------------------------------------------------------


def dotted(node: ast.AST) -> str:
    return (
        f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        else ""
    )


def imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0, names=names):
            return [module, *(f"{module}.{alias.name}" for alias in names)]
    return []


def test_time_and_chance_are_constructor_arguments() -> None:
    asked = {
        f"{path} {name}"
        for path, node in nodes(*PACKAGES)
        if not path.endswith("__main__.py")
        for name in (dotted(node), *imported(node))
        if name in AMBIENT | AMBIENT_MODULES
    }
    present = {entry for entry in MAY_ASK_THE_SYSTEM if (ROOT / entry.split()[0]).exists()}
    assert asked == present, "ask the clock and the ids you were given, or say above why not"


def test_only_settings_read_the_environment() -> None:
    reads = {
        path
        for path, node in nodes(*PACKAGES)
        if dotted(node) in {"os.environ", "os.getenv", "os.environb"}
        or {"os.environ", "os.getenv"} & set(imported(node))
    }
    present = {path for path in MAY_READ_THE_ENVIRONMENT if (ROOT / path).exists()}
    assert {path for path in reads if not path.endswith("settings.py")} == present


# --- money ----------------------------------------------------------------------------------------


def annotations_in_seconds(tree: ast.Module) -> set[int]:
    """Ids of the nodes inside annotations of names that end in _seconds: durations are the one
    thing that may be a float.
    """
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        match node:
            case (
                ast.arg(arg=name, annotation=ast.AST() as annotation)
                | ast.AnnAssign(target=ast.Name(id=name), annotation=annotation)
            ):
                found += [annotation] if name.endswith("_seconds") else []
            case (
                ast.FunctionDef(name=name, returns=ast.AST() as annotation)
                | ast.AsyncFunctionDef(name=name, returns=ast.AST() as annotation)
            ):
                found += [annotation] if name.endswith("_seconds") else []
    return {id(inner) for annotation in found for inner in ast.walk(annotation)}


def money_modules() -> tuple[Path, ...]:
    simulated = tuple(
        path for path in sources("sandbox") if path.stem in {"domain", "store", "channel", "wire"}
    )
    return (
        ROOT / "mesh/money.py",
        *(
            path
            for path in sources("payment_rpc", "order_rpc", "seckill_rpc")
            if path.stem != "settings"
        ),
        *simulated,
    )


def test_no_float_comes_near_money() -> None:
    inexact = {"float", "Float", "Double", "REAL", "Numeric", "DECIMAL", "Decimal"}
    found = []
    for path in money_modules():
        durations = annotations_in_seconds(tree_of(path))
        found += [
            f"{relative(path)}:{line_of(node)} {name}"
            for node in nodes_of(path)
            if id(node) not in durations
            for name in (getattr(node, "id", None), getattr(node, "attr", None))
            if name in inexact
        ]
    assert found == []


def test_the_domain_never_divides_and_knows_no_fraction() -> None:
    found = []
    for path in sources(
        "payment_rpc/domain", "order_rpc/domain", "seckill_rpc/domain", "merchant_rpc/domain"
    ):
        calls = [
            node
            for node in nodes_of(path)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "fromtimestamp"
        ]
        times = {id(inner) for call in calls for inner in ast.walk(call)}
        found += [
            f"{relative(path)}:{node.lineno}"
            for node in nodes_of(path)
            if id(node) not in times
            and (
                (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div))
                or (isinstance(node, ast.Constant) and isinstance(node.value, float))
            )
        ]
    assert found == []


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc"])
def test_the_domain_imports_the_standard_library_and_pure_modules_of_mesh(service: str) -> None:
    ours = re.compile(
        rf"mesh\.(api_key_format|customers|errors|merchant_status|money|scopes|state_machine)|{service}\.domain(\..+)?"
    )
    foreign = [
        f"{path}:{line_of(node)} {name}"
        for path, node in nodes(f"{service}/domain")
        for name in imported(node)[:1]
        if name.split(".")[0] not in sys.stdlib_module_names and not ours.fullmatch(name)
    ]
    assert foreign == []


WRITES_INTO_A_MESSAGE = {
    "append",
    "add",
    "extend",
    "insert",
    "pop",
    "remove",
    "update",
    "clear",
    "CopyFrom",
    "MergeFrom",
    "MergeFromString",
    "ParseFromString",
    "Clear",
    "ClearField",
    "SetInParent",
}


def test_no_servicer_writes_into_its_request() -> None:
    """The pipeline gives the same message to whoever sends the same bytes with the same token."""
    writes = []
    for service in ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc"):
        for name, node in nodes(f"{service}/servicer"):
            targets: Sequence[ast.expr] = (
                node.targets
                if isinstance(node, ast.Assign | ast.Delete)
                else [node.target]
                if isinstance(node, ast.AugAssign)
                else []
            )
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in WRITES_INTO_A_MESSAGE
            ):
                targets = [node.func]
            writes += [
                f"{name}:{line_of(node)}"
                for target in targets
                if not isinstance(target, ast.Name) and _root(target) == "request"
            ]
    assert writes == []


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


# --- contract -------------------------------------------------------------------------------------


@cache
def descriptors() -> tuple[descriptor_pb2.FileDescriptorProto, ...]:
    data = (ROOT / "generated" / "paymesh" / "descriptors.binpb").read_bytes()
    return tuple(
        file
        for file in descriptor_pb2.FileDescriptorSet.FromString(data).file
        if file.package.startswith("paymesh.")
    )


def commentable(
    message: descriptor_pb2.DescriptorProto, path: tuple[int, ...], name: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    """The message, its fields, enums and messages, as (path in the source info, name)."""
    if message.options.map_entry:
        return
    yield path, name
    yield from (((*path, 2, i), f"{name}.{field.name}") for i, field in enumerate(message.field))
    yield from (
        ((*path, 8, i), f"{name}.{oneof.name}")
        for i, oneof in enumerate(message.oneof_decl)
        if not oneof.name.startswith("_")
    )
    for i, enum in enumerate(message.enum_type):
        yield from enum_parts(enum, (*path, 4, i), f"{name}.{enum.name}")
    for i, inner in enumerate(message.nested_type):
        yield from commentable(inner, (*path, 3, i), f"{name}.{inner.name}")


def enum_parts(
    enum: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...], name: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    yield from (((*path, 2, i), f"{name}.{value.name}") for i, value in enumerate(enum.value))


def parts(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for i, message in enumerate(file.message_type):
        yield from commentable(message, (4, i), message.name)
    for i, enum in enumerate(file.enum_type):
        yield from enum_parts(enum, (5, i), enum.name)
    for i, service in enumerate(file.service):
        yield (6, i), service.name
        yield from (
            ((6, i, 2, j), f"{service.name}.{method.name}")
            for j, method in enumerate(service.method)
        )
    yield from (((7, i), extension.name) for i, extension in enumerate(file.extension))


def test_every_part_of_the_contract_has_a_comment() -> None:
    silent, seen = [], 0
    for file in descriptors():
        said = {
            tuple(place.path)
            for place in file.source_code_info.location
            if place.leading_comments.strip() or place.trailing_comments.strip()
        }
        for path, name in parts(file):
            seen += 1
            silent += [] if path in said else [f"{file.name}: {name}"]
    assert seen > 300, "the descriptor set holds no source info"
    assert silent == []


def contract_reasons(domain: str) -> set[str]:
    return {
        value.name.removeprefix("ERROR_REASON_")
        for file in descriptors()
        if file.package == domain
        for enum in file.enum_type
        if enum.name == "ErrorReason"
        for value in enum.value
        if value.number
    }


@cache
def refusals() -> tuple[type[MeshError], ...]:
    """Every MeshError class of our packages."""
    for package in ERROR_DOMAINS:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if "__main__" not in module.name and ".migrations" not in module.name:
                importlib.import_module(module.name)
    found, new = {MeshError}, {MeshError}
    while new := {inner for outer in new for inner in outer.__subclasses__()} - found:
        found |= new
    return tuple(
        refusal
        for refusal in sorted(found, key=lambda refusal: refusal.__qualname__)
        if package_of(refusal) in ERROR_DOMAINS
    )


def package_of(refusal: type[MeshError]) -> str:
    return refusal.__module__.split(".")[0]


def test_no_rule_of_the_contract_asks_what_time_it_is() -> None:
    """What was found right once stays right: the pipeline checks the same request of the same
    caller once.
    """
    rule, of_time = (
        re.compile(r"buf\.validate|expression"),
        re.compile(r"\bnow\b|lt_now|gt_now|\bwithin\b"),
    )
    asking = [
        f"{relative(path)}:{number}"
        for path in sorted((ROOT / "protos" / "paymesh").rglob("*.proto"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if rule.search(line) and of_time.search(line)
    ]
    assert asking == []


def test_every_reason_that_code_raises_stands_in_the_contract() -> None:
    unknown = [
        f"{refusal.__module__}.{refusal.__qualname__}: {refusal.reason}"
        for refusal in refusals()
        if not any(
            refusal.reason in contract_reasons(domain)
            for domain in ERROR_DOMAINS[package_of(refusal)]
        )
    ]
    assert unknown == []


def test_no_two_refusals_of_a_package_share_a_reason() -> None:
    counted = Counter(
        (package_of(refusal), refusal.__dict__["reason"])
        for refusal in refusals()
        if "reason" in refusal.__dict__
    )
    assert [key for key, count in counted.items() if count > 1] == []


def test_every_refusal_has_a_default_message() -> None:
    assert [
        refusal.__qualname__ for refusal in refusals() if not default_message(refusal).endswith(".")
    ] == []


# --- what is committed ----------------------------------------------------------------------------


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    hosts = [
        "py" + "pi.org",
        "python" + "hosted",
        "npm" + "js.org",
        "deb." + "debian.org",
        "crates" + ".io",
        "proxy." + "golang.org",
    ]
    paths = [
        "/wor" + "k/",
        "/ro" + "ot/",
        "/ho" + "me/",
        "/Use" + "rs/",
        "/tmp" + "/pm",
        "/opt/" + "wheels",
        "/opt/" + "py",
    ]
    named = re.compile(
        "|".join(re.escape(word) for word in hosts)
        + "|"
        + "|".join(rf"(?<![\w.}}]){re.escape(word)}" for word in paths)
    )
    assert [
        f"{path}:{text[: match.start()].count(chr(10)) + 1} {match[0]}"
        for path, text in texts()
        for match in named.finditer(text)
    ] == []


def lock_entries(name: str) -> dict[str, str]:
    """Package -> pinned version."""
    return {
        canonicalize_name(match[1]): match[2]
        for match in re.finditer(
            r"^([a-z0-9._-]+)==([^ \\\n]+)", (ROOT / name).read_text(), re.MULTILINE
        )
    }


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_file_pins_everything_by_hash_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(lock_entries(lock)) > 40
    assert [block.split("\n")[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert re.search(r"://|^--?[a-z]", text, re.MULTILINE) is None


def test_the_lock_files_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    stubs = tomllib.loads((ROOT / "generated" / "pyproject.toml").read_text())
    runtime = [
        *project["project"]["dependencies"],
        *stubs["project"]["dependencies"],
        *project["dependency-groups"]["build"],
    ]
    for lock, wanted in (
        ("requirements.lock", runtime),
        ("requirements-dev.lock", [*runtime, *project["dependency-groups"]["dev"]]),
    ):
        pinned = lock_entries(lock)
        requirements = [
            requirement
            for line in wanted
            if (requirement := Requirement(line)).name != "paymesh-stubs"
        ]
        stale = [
            str(requirement)
            for requirement in requirements
            if not requirement.specifier.contains(
                pinned.get(canonicalize_name(requirement.name), "0")
            )
        ]
        assert stale == [], f"{lock}: run `make locks`"
    assert (
        lock_entries("requirements.lock").items() <= lock_entries("requirements-dev.lock").items()
    )


def test_no_proto_has_a_list_of_messages_in_an_option() -> None:
    """protobufjs, and with it every Node client, reads `rules {…} rules {…}` and not `rules:
    [{…}]`.
    """
    lists = re.compile(r":\s*\[\s*\{")
    assert [
        str(path)
        for path in (ROOT / "protos" / "paymesh").rglob("*.proto")
        if lists.search(path.read_text())
    ] == []


def test_the_page_on_architecture_names_every_module_of_mesh_and_tests_that_exist() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    modules = {
        path.stem
        for path in (ROOT / "mesh").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert sorted(name for name in modules - {"__init__"} if f"`{name}`" not in page) == []
    named = set(re.findall(r"test_[a-z0-9_]+\*?(?:\.py)?", page))
    assert (
        sorted(
            name
            for name in named
            if not list(
                (ROOT / "tests").rglob(name if name.endswith((".py", "*")) else f"{name}.py")
            )
        )
        == []
    )


def test_the_docstring_of_mesh_has_one_line_per_module() -> None:
    named = re.findall(
        r"^    ([a-z_]+) +\S",
        ast.get_docstring(tree_of(ROOT / "mesh/__init__.py"), clean=False) or "",
        re.MULTILINE,
    )
    modules = [
        path.stem
        for path in (ROOT / "mesh").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    assert sorted(named) == sorted(set(modules) - {"__init__"})
