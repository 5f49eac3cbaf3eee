"""`mixrank check`: exit codes, JSON, and what it does not import; the first step of a run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from mixrank.pipeline.checking import check_before_run, first_step
from mixrank.pipeline.commands.run import check
from mixrank.pipeline.config import load_config

LOG = """user,product,time,page,click
{rows}
"""
DATASET = """
from mixrank.schemas import *

DATASET = Dataset(
    spec=FeatureSpec(
        name="shop",
        user=Key("user"),
        item=Key("product"),
        time=EventTime("time", unit="s"),
        scenario=Scenario("page", values=(1, 2)),
        labels=(Label("click"),),
        features=(Categorical("product", group="item"), History("past", of=("product",), length=3, window="before")),
    ),
    source=LogSource(log=Table(files=("log.csv",)), split=SplitByUserTail(valid=0, eval=0.25)),
)
"""
CONFIG = """
name: shop
dataset: {folder}/shop.py
data: {folder}
output: {folder}/runs
train: {{batch_size: 8}}
model: {{params: {{realtime_sequence: false}}}}
"""


@pytest.fixture
def config(tmp_path):
    """Writes a log with the given clicks, its declaration and a config; returns the config's path."""

    def write(clicked=lambda user, step: (user + step) % 3 == 0):
        rows = [
            f"{user},{(user + step) % 5},{1_700_000_000 + 90_000 * step},{1 + step % 2},{int(clicked(user, step))}"
            for user in range(8)
            for step in range(8)
        ]
        (tmp_path / "log.csv").write_text(LOG.format(rows="\n".join(rows)))
        (tmp_path / "shop.py").write_text(DATASET)
        (tmp_path / "shop.yaml").write_text(CONFIG.format(folder=tmp_path))
        return str(tmp_path / "shop.yaml")

    return write


def run(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(check)
    return CliRunner().invoke(app, arguments)


def test_a_good_log_gives_0_and_a_page(config, tmp_path):
    result = run(config(), "--html", str(tmp_path / "check.html"))
    assert result.exit_code == 0, result.output
    assert "nothing stops a run" in result.output
    assert f"report: {tmp_path / 'check.html'}" in result.output
    assert (tmp_path / "check.html").is_file()


def test_a_label_that_is_always_0_gives_2_and_the_same_as_json(config):
    path = config(lambda user, step: False)
    result = run(path)
    assert result.exit_code == 2, result.output
    assert "stop: label `click` is 0 in all 48 rows of `train` and 0 in all 16 rows of `eval`" in result.output
    told = run(path, "--json")
    assert told.exit_code == 2
    found = json.loads(told.stdout)
    assert [(remark["kind"], remark["level"]) for remark in found["remarks"]] == [("one_class_label", "stop")]
    assert found["splits"]["train"]["rows"] == 48
    assert run(path, "--set", 'gates.allow=["one_class_label:click"]').exit_code == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=nowhere", "`data` must be a folder"),
        ("model.params.realtime_sequence=true", 'hemix reads a history with window="within", which the spec does not'),
        ("model={name: mixformer}", 'mixformer reads a history with window="within"'),
        ("model={name: mtmixatt, params: {groups: [[prodct]]}}", "`groups` names 'prodct', which is not a field"),
        ("model={name: mtmixatt, params: {esmm: [[buy, click]]}}", "`esmm` names 'buy', which is not a task"),
        ("model.name=hemx", "there is no model `hemx`; did you mean `hemix`?"),
        ("thresholds.min_auc.clik=0.5", "`min_auc` names task `clik`; did you mean `click`?"),
        ("train.loss.clik=focal", "`train.loss` names the task `clik`"),
        ("train.early_stopping={metric: loss}", "`early_stopping` needs a `valid` split"),
        ("train.splits=[train, valid]", "`train.splits` names `valid`, which the log does not have"),
        ("train.warm_start=nowhere", "`warm_start`=nowhere holds no model"),
        ("train.batch_size=0", "train.batch_size: Input should be greater than or equal to 1, received 0"),
        ("train={replicas: 3, batch_size: 8}", "`batch_size` must be divisible by 3 replicas"),
    ],
)
def test_what_can_be_known_without_data_gives_1(config, override, message):
    result = run(config(), "--set", override)
    assert result.exit_code == 1
    assert message in result.output.replace("\n", " ")


def test_a_missing_file_and_column_give_1(config, tmp_path):
    path = config()
    log = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(log.replace("page", "pages", 1))
    assert "column `page`" in run(path).output.replace("\n", " ")
    (tmp_path / "log.csv").unlink()
    result = run(path)
    assert result.exit_code == 1
    assert "no file matches 'log.csv'" in result.output


@pytest.mark.slow
def test_neither_tensorflow_nor_keras_nor_beam_is_imported(config):
    code = (
        "import sys\n"
        "from mixrank.pipeline.cli import app\n"
        f"sys.argv = ['mixrank', 'check', {config()!r}, '--json']\n"
        "try:\n"
        "    app()\n"
        "finally:\n"
        "    heavy = {'tensorflow', 'keras', 'tfx', 'apache_beam', 'altair'} & {*sys.modules}\n"
        "    print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_run_checks_a_log_once(config, tmp_path, monkeypatch):
    settings = load_config(config())
    settings.run_dir.mkdir(parents=True)
    dataset = settings.load_dataset()
    assert check_before_run(settings, dataset, Console())
    monkeypatch.setattr(first_step, "check_log", lambda *arguments: pytest.fail("checked again"))
    assert check_before_run(settings, dataset, Console())
    (tmp_path / "log.csv").write_text((tmp_path / "log.csv").read_text() + "9,1,1700000000,1,1\n")
    with pytest.raises(pytest.fail.Exception, match="checked again"):
        check_before_run(settings, dataset, Console())


def test_a_run_of_a_wrong_log_does_not_go_on(config, capsys):
    settings = load_config(config(lambda user, step: True))
    settings.run_dir.mkdir(parents=True)
    assert not check_before_run(settings, settings.load_dataset(), Console(width=200))
    assert "stop: label `click` is 1 in all 48 rows of `train`" in capsys.readouterr().out
    assert not (settings.run_dir / first_step.PASSED).exists()
