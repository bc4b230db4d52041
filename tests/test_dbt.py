"""dbt runs the example project for real, in processes of its own, against a model that counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import duckdb
import pytest

from fleming_sql.testing import MockModel, Received, Reply, chat_reply

pytest.importorskip("dbt.adapters.duckdb")

pytestmark = pytest.mark.timeout(300)  # dbt takes seconds to start, several times over on a busy machine

ROOT: Final = Path(__file__).resolve().parent.parent
EXAMPLE: Final = ROOT / "examples" / "dbt_project"
TICKETS: Final = 160
WITH_CARD_NUMBERS: Final = 11
SENT: Final = 2 * (TICKETS - WITH_CARD_NUMBERS)
"""Topics and summaries; what the guardrail holds back is not sent."""

_RUN: Final = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in what runs in the background
from dbt.cli.main import dbtRunner
for command in json.loads(sys.argv[1]):
    ended = dbtRunner().invoke(command)
    print(f"@@@ {ended.success}", flush=True)
    if not ended.success:
        sys.exit(str(ended.exception))
"""
_HOOKS_AND_MORE: Final = """
on-run-end:
  - "select ai_query('tickets', 'asked by the hook')"
"""
_LABELLED: Final = """
{{{{ config(pre_hook="select ai_query('tickets', 'asked by the hook of {name}')") }}}}
select ai_query(
    'tickets', 'asked by {name} ' || range, usageContext => {{'dbt_node': 'own', 'range': range::varchar}}
) as answer
from range(20)
"""
_SETTINGS: Final = {
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "DBT_USE_COLORS": "false",
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
}


def prompt_of(received: Received) -> str:
    text: str = received.json()["messages"][0]["content"]
    return text


def answer(received: Received) -> Reply:
    return chat_reply("billing" if "as one of" in prompt_of(received) else "A ticket.")


@dataclass(frozen=True)
class Ran:
    """A process of dbt that has ended, and what it sent."""

    code: int
    output: str
    prompts: Sequence[str]


class Project:
    """A copy of the example, with its endpoint at a model server."""

    def __init__(self, folder: Path, model: MockModel) -> None:
        self.folder = folder
        self._model = model
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("target", "logs", "*.duckdb*"))

    @contextmanager
    def start(self, *commands: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """Start one process that runs commands of dbt, one after the other."""
        variables = f"{{provider: openai, model: mock, base_url: '{self._model.url}'}}"
        arguments = json.dumps([[*command, "--vars", variables] for command in commands])
        with subprocess.Popen(
            [sys.executable, "-c", _RUN, arguments],
            cwd=self.folder,
            env={**os.environ, **_SETTINGS},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *commands: Sequence[str]) -> Ran:
        before = len(self._model.requests)
        with self.start(*commands or [["build"]]) as process:
            output, _ = process.communicate(timeout=100)
        return Ran(process.returncode, output, [prompt_of(each) for each in self._model.requests[before:]])

    def read(self, query: str) -> list[Any]:
        with duckdb.connect(self.folder / "support.duckdb", read_only=True) as con:
            return con.execute(query).fetchall()

    def log(self, query: str) -> list[Any]:
        with duckdb.connect(self.folder / "support.fleming.duckdb", read_only=True) as con:
            return con.execute(query).fetchall()

    def add_ticket(self) -> None:
        with (self.folder / "seeds" / "support_tickets.csv").open("a") as file:
            file.write('20001,2026-11-01T08:00:00,chat,Ada Test,GB,,"The new lamp hums."\n')


@dataclass(frozen=True)
class Builds:
    """The example, built three times: as it is, again, and with one more ticket."""

    project: Project
    first: Ran
    second: Ran
    third: Ran


@pytest.fixture(scope="module")
def model() -> Iterator[MockModel]:
    with MockModel(answer) as model:
        yield model


@pytest.fixture(scope="module")
def builds(model: MockModel, tmp_path_factory: pytest.TempPathFactory) -> Builds:
    project = Project(tmp_path_factory.mktemp("dbt") / "project", model)
    first = project.run()
    second = project.run()
    project.add_ticket()
    return Builds(project, first, second, project.run())


def test_the_example_builds_and_its_tests_pass(builds: Builds) -> None:
    assert "PASS=16 WARN=0 ERROR=0 SKIP=0" in builds.first.output, builds.first.output


def test_a_store_that_is_new_is_said_to_be_with_its_path_and_an_old_one_is_not(builds: Builds) -> None:
    store = (builds.project.folder / "support.fleming.duckdb").resolve()

    assert builds.first.output.count(f"the gateway's store {store} is new: it has no endpoint") == 1
    assert "is new" not in builds.second.output


def test_each_ticket_is_asked_about_once_by_each_model(builds: Builds) -> None:
    assert max(Counter(builds.first.prompts).values()) == 1
    assert len(builds.first.prompts) == SENT


def test_a_second_build_sends_nothing(builds: Builds) -> None:
    assert (builds.second.code, builds.second.prompts) == (0, [])


def test_a_new_row_is_all_that_a_later_build_sends(builds: Builds) -> None:
    assert builds.third.code == 0
    assert len(builds.third.prompts) == 2
    assert all("The new lamp hums." in prompt for prompt in builds.third.prompts)


def test_the_incremental_model_keeps_one_row_per_ticket(builds: Builds) -> None:
    [(rows, tickets)] = builds.project.read("select count(*), count(distinct ticket_id) from ticket_summaries")

    assert (rows, tickets) == (TICKETS + 1, TICKETS + 1)


def test_failed_rows_stand_in_the_sidecar_with_their_reason(builds: Builds) -> None:
    failed = builds.project.read(
        "select model, left(error, 27), count(*)::int from failed_calls group by all order by all"
    )

    assert failed == [
        ("ticket_summaries", "[INPUT_GUARDRAIL_TRIGGERED]", WITH_CARD_NUMBERS),
        ("ticket_topics", "[INPUT_GUARDRAIL_TRIGGERED]", WITH_CARD_NUMBERS),
    ]


def test_spending_per_model_is_one_query(builds: Builds) -> None:
    requests = builds.project.log("""
        select context_value, sum(calls - cache_hits - errors)::int
        from serving.usage_by_context where context_key = 'dbt_model' group by all order by all
    """)

    assert requests == [("ticket_summaries", SENT // 2 + 1), ("ticket_topics", SENT // 2 + 1)]


def test_the_usage_model_has_what_the_log_has_of_its_build(builds: Builds) -> None:
    models = builds.project.read("select distinct model from ai_usage order by model")

    assert models == [("ticket_summaries",), ("ticket_topics",)]


def test_each_row_of_the_log_names_project_invocation_user_and_the_labels_of_profile_and_call(builds: Builds) -> None:
    [(projects, invocations, users, teams, steps)] = builds.project.log("""
        select
            list(distinct usage_context['dbt_project']), count(distinct usage_context['dbt_invocation_id']),
            list(distinct requester), list(distinct usage_context['team']), list(distinct usage_context['step'])
        from serving.endpoint_usage where usage_context['dbt_model'] = 'ticket_summaries'
    """)

    assert (projects, invocations, users, teams, steps) == (["support"], 3, ["dbt"], ["support"], ["summary"])


def test_nothing_shows_progress(builds: Builds) -> None:
    assert "rows/s" not in builds.first.output
    assert "\r" not in builds.first.output


@pytest.fixture(scope="module")
def labelled(model: MockModel, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Eight models on four threads with hooks, one in Python, a view and the test that reads it, and an operation."""
    project = Project(tmp_path_factory.mktemp("labelled") / "project", model)
    for kind in ("models", "tests", "seeds"):
        shutil.rmtree(project.folder / kind)
    (project.folder / "models").mkdir()
    (project.folder / "tests").mkdir()
    for number in range(8):
        (project.folder / "models" / f"m{number}.sql").write_text(_LABELLED.format(name=f"m{number}"))
    (project.folder / "models" / "seen.sql").write_text(
        "{{ config(materialized='view') }} select ai_query('tickets', 'asked by the view') as answer"
    )
    (project.folder / "models" / "python.py").write_text(
        "def model(dbt, con):\n"
        "    dbt.config(materialized='table')\n"
        "    return con.sql(\"select ai_query('tickets', 'asked by python') as answer\")\n"
    )
    (project.folder / "tests" / "reads.sql").write_text("from {{ ref('seen') }} where answer is null")
    (project.folder / "macros" / "ask.sql").write_text(
        "{% macro ask() %}{% do run_query(\"select ai_query('tickets', 'asked by the operation')\") %}{% endmacro %}"
    )
    with (project.folder / "dbt_project.yml").open("a") as file:
        file.write(_HOOKS_AND_MORE)
    ran = project.run(["build"], ["run-operation", "ask"])
    assert ran.code == 0, ran.output
    return project


def node_of(project: Project, asked: str) -> list[Any]:
    return project.log(f"""
        select distinct usage_context['dbt_node'] from serving.endpoint_usage
        inner join serving.inference using (databricks_request_id)
        where request->>'$.messages[0].content' = 'asked by {asked}'
    """)


def test_on_four_threads_each_call_is_labelled_with_its_own_model(labelled: Project) -> None:
    found = labelled.log(r"""
        select usage_context['dbt_model'], count(*) from serving.endpoint_usage
        inner join serving.inference using (databricks_request_id)
        where usage_context['dbt_model'] = regexp_extract(request->>'$.messages[0].content', '\bm\d')
        group by all order by all
    """)

    assert found == [(f"m{number}", 21) for number in range(8)]


def test_the_labels_of_a_call_win_for_their_own_keys_only(labelled: Project) -> None:
    [(node, project, model)] = labelled.log("""
        select usage_context['dbt_node'], usage_context['dbt_project'], usage_context['dbt_model']
        from serving.endpoint_usage where usage_context['range'] = '7' and usage_context['dbt_model'] = 'm3'
    """)

    assert (node, project, model) == ("own", "support", "m3")


def test_a_hook_of_the_run_is_labelled_with_its_name(labelled: Project) -> None:
    assert node_of(labelled, "the hook") == [("operation.support.support-on-run-end-0",)]


def test_a_hook_of_a_model_is_labelled_with_the_model(labelled: Project) -> None:
    assert node_of(labelled, "the hook of m5") == [("model.support.m5",)]


def test_who_reads_a_view_is_labelled_and_not_the_view(labelled: Project) -> None:
    assert node_of(labelled, "the view") == [("test.support.reads",)]


def test_a_model_in_python_is_labelled_with_its_name(labelled: Project) -> None:
    assert node_of(labelled, "python") == [("model.support.python",)]


def test_an_operation_is_labelled_with_its_macro(labelled: Project) -> None:
    assert node_of(labelled, "the operation") == [("macro_ask",)]


class Stalling:
    """Answers so many requests and leaves the others without an answer."""

    def __init__(self) -> None:
        self.left = 0
        self.answered: list[str] = []

    def __call__(self, received: Received) -> Reply:
        if len(self.answered) >= self.left:
            return Reply(hang=True)
        self.answered.append(prompt_of(received))
        return answer(received)


def reached(count: int, model: MockModel) -> bool:
    return model.request_count >= count


@dataclass(frozen=True)
class Interrupted:
    """A build that was killed, one that was interrupted, and the one that came to its end."""

    killed: Sequence[str]
    """The prompts that were answered."""
    interrupted: Sequence[str]
    stopped_with: str
    last: Ran


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    stalling = Stalling()
    with MockModel(stalling) as model:
        project = Project(tmp_path_factory.mktemp("interrupted") / "project", model)
        outputs = []
        for answers, kind in ((60, signal.SIGKILL), (150, signal.SIGINT)):
            stalling.left = answers
            already = model.request_count
            # What is asked after the last answer stands at the server: that answer has arrived.
            expected = already + answers - len(stalling.answered) + 100
            with project.start(["build"]) as process:
                model.wait_until(partial(reached, expected), 60)
                process.send_signal(kind)
                outputs.append(process.communicate(timeout=60)[0])
        stalling.left = 10_000
        last = project.run()
    return Interrupted(stalling.answered[:60], stalling.answered[60:150], outputs[1], last)


def test_a_build_after_a_kill_asks_for_nothing_that_was_answered(interrupted: Interrupted) -> None:
    assert not {*interrupted.killed} & {*interrupted.interrupted, *interrupted.last.prompts}


def test_a_build_after_ctrl_c_asks_for_nothing_that_was_answered(interrupted: Interrupted) -> None:
    assert not {*interrupted.interrupted} & {*interrupted.last.prompts}


def test_a_build_after_interruptions_sends_the_rest_and_comes_to_its_end(interrupted: Interrupted) -> None:
    assert interrupted.last.code == 0, interrupted.last.output
    assert len(interrupted.last.prompts) == SENT - 150


def test_ctrl_c_breaks_off_calls_that_no_answer_came_for(interrupted: Interrupted) -> None:
    assert "CANCEL query model.support.ticket_topics" in interrupted.stopped_with


WRONG: Final = {
    "unknown": ("{gatway: x}", "there is no key gatway; it takes gateway, groups, usage_context, user, wait_seconds"),
    "groups": ("{groups: analysts}", "groups takes a list of names, such as [analysts]; it has a value of type str"),
    "user": ("{user: ''}", "user takes a name; it has an empty text"),
    "labels": ("{usage_context: {team: 7}}", "put numbers into quotes; it has a value of type int"),
    "list": ("{usage_context: [team]}", "put numbers into quotes; it has a value of type list"),
    "folder": ("{gateway: missing/store.duckdb}", "missing/store.duckdb cannot be created"),
    "wait": ("{wait_seconds: soon}", "wait_seconds takes a number of seconds, 0 or more; it has a value of type str"),
    "past": ("{wait_seconds: -1}", "wait_seconds takes a number of seconds, 0 or more; it has a number below 0"),
    "same": ("{gateway: ./same.db}", "gateway and path are the same file, same.db: the gateway's store is a file"),
    "impatient": ("{gateway: locked.duckdb, wait_seconds: 0.3}", "locked.duckdb is open in another process: close it"),
    "locked": ("{gateway: locked.duckdb}", "locked.duckdb is open in another process: close it there"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `dbt debug` says to each wrong configuration."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "dbt_project.yml").write_text("{name: wrong, profile: wrong}")
    outputs = "".join(
        f"    {name}: {{type: duckdb, path: {name}.db, plugins: [{{module: fleming_sql.dbt, config: {config}}}]}}\n"
        for name, (config, _) in WRONG.items()
    )
    (folder / "profiles.yml").write_text(f"wrong:\n  target: unknown\n  outputs:\n{outputs}")
    script = "import sys\nfrom dbt.cli.main import dbtRunner\nfor target in sys.argv[1:]:\n"
    script += "    dbtRunner().invoke(['debug', '--connection', '--target', target])\n    print('@@@', flush=True)"
    with duckdb.connect(folder / "locked.duckdb"):
        done = subprocess.run(
            [sys.executable, "-c", script, *WRONG],
            cwd=folder,
            env={**os.environ, **_SETTINGS},
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
    return dict(zip(WRONG, done.stdout.split("@@@"), strict=False))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_is_told_in_clear_words(refusals: dict[str, str], name: str) -> None:
    assert WRONG[name][1] in refusals[name]
    assert "Traceback" not in refusals[name]


_HOLDER: Final = """
import sys, fleming_sql
with fleming_sql.connect(gateway="shared.fleming.duckdb"):
    print("open", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def waiting(folder: Path) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Start a process that holds a store and a build that waits for it."""
    (folder / "models").mkdir()
    (folder / "models" / "one.sql").write_text("select 1 as one")
    (folder / "dbt_project.yml").write_text("{name: waiting, profile: waiting}")
    config = "{gateway: shared.fleming.duckdb, wait_seconds: 200}"
    (folder / "profiles.yml").write_text(
        "waiting: {target: dev, outputs: {dev: {type: duckdb, path: own.duckdb, "
        f"plugins: [{{module: fleming_sql.dbt, config: {config}}}]}}}}}}\n"
    )
    start = partial(
        subprocess.Popen,
        cwd=folder,
        env={**os.environ, **_SETTINGS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with start([sys.executable, "-c", _HOLDER]) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with start([sys.executable, "-c", _RUN, json.dumps([["build"]])]) as dbt:
            try:
                assert dbt.stdout is not None
                words = next(line for line in dbt.stdout if "waiting up to 200 s for the gateway's store" in line)
                assert "shared.fleming.duckdb is open in another process" in words
                yield holder, dbt
            finally:
                dbt.kill()
                holder.kill()


def test_with_wait_seconds_a_run_begins_when_the_other_process_lets_go_of_the_store(tmp_path: Path) -> None:
    with waiting(tmp_path) as (holder, dbt):
        holder.communicate("\n", timeout=60)
        output = dbt.communicate(timeout=60)[0]

    assert "@@@ True" in output
