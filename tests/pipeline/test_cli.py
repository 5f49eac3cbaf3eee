"""The command answers at once, in one readable line, and never with a traceback unless asked."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from mixrank.layers import registry
from mixrank.layers.ranking import budget as budget_of
from mixrank.layers.ranking import widths
from mixrank.pipeline import cli
from mixrank.pipeline.commands import terminal
from mixrank.schemas import tfmd
from mixrank.schemas.datasets import load


@pytest.fixture
def mixrank(monkeypatch):
    # Tables are cut to the terminal's width.
    monkeypatch.setattr(terminal.console, "width", 200)
    monkeypatch.setattr(terminal.errors, "width", 200)
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_without_a_command_it_lists_them(mixrank):
    shown = mixrank("--help").output
    for name in ("run", "train", "tfrs-baseline", "features", "schema", "models", "report", "doctor"):
        assert name in shown
    assert mixrank().output.strip() == shown.strip()


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_list_of_commands_fills_the_terminal_with_every_help_line(mixrank, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = mixrank("--help").output.splitlines()
    boxes = [line for line in lines if line[:1] in tuple("╭│╰")]
    assert {len(line) for line in boxes} == {width}
    assert [line.split()[1:-1] for line in boxes if line[0] == "╭"] == [
        name.split() for name in ("Options", *cli.PANELS)
    ]
    rows = [line.strip("│ ").split() for line in boxes if line[0] == "│"]
    words = [word for row in rows for word in row]
    expected = ["--help", "Show", "this", "message", "and", "exit."]
    for name, path in cli.COMMANDS.items():
        expected += [name, *cli.help_line(path).split()]
    assert words == expected


@pytest.mark.parametrize(
    "reference", ["movielens", "mixrank.schemas.datasets.movielens", "pipeline/configs/movielens.yaml"]
)
def test_features_are_found_by_dataset_and_by_config(mixrank, reference, request):
    if reference.endswith(".yaml"):
        reference = request.config.rootpath / reference
    result = mixrank("features", reference)
    assert result.exit_code == 0
    assert "movielens: 11 features" in result.output
    assert "global_genre, realtime_genre" in result.output


def test_a_schema_prints_as_it_is_committed(mixrank):
    assert mixrank("schema", "movielens").output == (tfmd.GENERATED / "movielens.pbtxt").read_text()
    assert "movielens.pbtxt is up to date" in mixrank("schema", "movielens", "--check").output


def test_a_stale_schema_fails_with_the_command_that_refreshes_it(mixrank, tmp_path, monkeypatch):
    monkeypatch.setattr(tfmd, "GENERATED", tmp_path / "generated")
    result = mixrank("schema", "movielens", "--check")
    assert result.exit_code == 1
    assert "refresh it: mixrank schema movielens --write" in result.output
    assert mixrank("schema", "movielens", "--write").exit_code == 0
    assert mixrank("schema", "movielens", "--check").exit_code == 0
    (tmp_path / "generated" / "movielens.pbtxt").write_text("feature {}")
    assert mixrank("schema", "movielens", "--check").exit_code == 1


def test_models_are_listed_with_their_papers(mixrank):
    result = mixrank("models")
    assert result.exit_code == 0
    assert "hemix" in result.output and "2602.09387" in result.output and "tiny, small, large" in result.output


def test_heads_are_listed_with_their_options(mixrank):
    listed = mixrank("heads").output
    assert all(word in listed for word in ("shared_bottom", "mmoe", "pepnet", "RecSys 2020"))
    options = mixrank("heads", "home").output
    assert "feature_rank" in options and "the model's `head_units`" in options
    wrong = mixrank("heads", "hom")
    assert wrong.exit_code == 1 and "there are no heads `hom`; did you mean `home`?" in wrong.output


def test_sizes_are_those_with_the_heads_that_are_asked_for(mixrank):
    def size(*options: str) -> float:
        (row,) = (line for line in mixrank("models", "dlrm", "--sizes", *options).output.splitlines() if "tiny" in line)
        return float(row.strip("│").split("│")[2])

    own = size()
    assert size("--heads", "shared_bottom") == own
    # Four experts of 64 on a representation of a few hundred.
    assert size("--heads", "mmoe") > own


def test_every_preset_of_every_model_has_a_size(mixrank):
    output = mixrank("models", "--sizes").output
    assert "sizes on kuairand, without embeddings" in output
    sizes = {
        tuple(words[:2]): words[2:4] for line in output.splitlines() if len(words := re.findall(r"[^│\s]+", line)) >= 4
    }
    for name in registry.names():
        for preset in registry.presets(name):
            parameters, flops = sizes[name, preset]
            assert float(parameters.replace(",", "")) > 0 and float(flops.replace(",", "")) > 0
    # docs/models/hemix.md has the same numbers.
    assert sizes["hemix", "tiny"] == ["0.24", "0.98"]


@pytest.mark.parametrize(("budget", "parameters"), [("1M", 1e6), ("20M", 20e6), ("1500000", 1.5e6), ("2_000k", 2e6)])
def test_a_model_is_scaled_to_a_budget(mixrank, budget, parameters):
    result = mixrank("models", "hemix", "--match-params", budget, "--dataset", "movielens")
    assert result.exit_code == 0
    (row,) = (line for line in result.output.splitlines() if line.startswith("│ hemix"))
    _, found, off, _, scaled = (cell.strip() for cell in row.strip("│").split("│"))
    dim, spec = int(scaled.removeprefix("dim=")), load("movielens").spec

    def dense(dim: int) -> int:
        params = {**registry.presets("hemix")["tiny"], "dim": dim}
        return budget_of.dense_parameters("hemix", params, widths(spec), spec.tasks, spec.scenario.values)

    assert found == f"{dense(dim) / 1e6:.2f}"
    assert off == f"{100 * (dense(dim) / parameters - 1):+.1f} %"
    # The width is a multiple of 8; the neighbouring multiples are further away.
    assert all(abs(dense(dim) - parameters) <= abs(dense(dim + step) - parameters) for step in (-8, 8))


@pytest.mark.slow
def test_all_models_are_scaled_side_by_side_and_what_cannot_be_says_why(mixrank, monkeypatch):
    known = registry.model
    monkeypatch.setattr(
        registry, "model", lambda name: known(name)._replace(scaled={}) if name == "hemix" else known(name)
    )
    result = mixrank("models", "--match-params", "1M")
    assert result.exit_code == 0
    rows = [line for line in result.output.splitlines() if line.startswith("│")]
    assert [row.split()[1] for row in rows] == registry.names()
    (hemix,) = (row for row in rows if row.startswith("│ hemix"))
    assert "names no parameter in SCALED" in hemix
    alone = mixrank("models", "hemix", "--match-params", "1M")
    assert alone.exit_code == 1
    assert "error: hemix names no parameter in SCALED" in alone.output


def test_a_model_shows_its_parameters_presets_and_their_meaning(mixrank):
    result = mixrank("models", "hemix")
    assert result.exit_code == 0
    for word in ("num_global", "fixed_queries", "tiny", "large", "Token width", "tuple[PositiveInt, ...]"):
        assert word in result.output, word


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("features", "movielns"), "there is no dataset `movielns`; did you mean `movielens`?"),
        (("schema", "kuairnd"), "there is no dataset `kuairnd`; did you mean `kuairand`?"),
        (
            ("models", "--match-params", "1X"),
            "a count may end in K, M or B, such as 1M; received '1X'",
        ),
        (("models", "--match-params", "M"), "a count is a number such as 1000000 or 1.5M, received 'M'"),
        (("models", "--match-params", "0"), "--match-params must be at least 1, received 0"),
        (("models", "--sizes", "--dataset", "kuairnd"), "there is no dataset `kuairnd`; did you mean `kuairand`?"),
        (("run", "movielens", "--set", "model.match_params=1X"), "model.match_params: a count may end in K, M or B"),
        (("models", "hemx"), "there is no model `hemx`; did you mean `hemix`?"),
        (("run", "movielns"), "config movielns does not exist; did you mean `movielens`?"),
        (("run", "movielens", "--set", "dataset=movielns"), "there is no dataset `movielns`"),
        (("run", "movielens", "--set", "data=/nowhere"), "/nowhere is not a folder"),
        (("run", "movielens", "--set", "train.epoch=1"), "has no field `epoch`; did you mean `epochs`?"),
        (("run", "movielens", "--set", "model.params.dims=1"), "hemix has no parameter `dims`; did you mean `dim`?"),
        (("run", "movielens", "--set", "thresholds.min_auc.clik=1"), "names task `clik`; did you mean `click`?"),
        (("train", "movielens", "--set", "train.optimizer.name=adm"), "there is no optimizer `adm`"),
    ],
)
def test_a_wrong_name_ends_with_one_readable_line(mixrank, arguments, message):
    result = mixrank(*arguments)
    assert result.exit_code == 1
    assert message in result.output
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")


def test_a_folder_that_is_no_run_is_named(mixrank, tmp_path):
    result = mixrank("report", tmp_path)
    assert result.exit_code == 1
    assert result.output.splitlines() == [f"error: {tmp_path} is not a run folder: it holds no run.json"]


def test_a_wrong_declaration_is_readable_and_debug_shows_its_traceback(mixrank, tmp_path):
    (tmp_path / "shop.py").write_text("from mixrank.schemas.features import Vocab\n\nVocab(oov=0)\n")
    result = mixrank("features", tmp_path / "shop.py")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"error: {tmp_path}/shop.py, line 3: oov: Input should be greater than or equal to 1, received 0"
    ]
    told = mixrank("features", tmp_path / "shop.py", "--debug").output
    assert "Traceback" in told and "ValueError" in told
    assert "line 3: oov" in told.replace("\n", "")


def test_an_error_of_another_kind_points_to_the_traceback(mixrank, monkeypatch):
    from mixrank.layers import registry

    def broken():
        raise OSError("disk [gone]")

    monkeypatch.setattr(registry, "names", broken)
    result = mixrank("models")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "error: disk [gone]",
        "run it again with --debug for the traceback",
    ]


def test_an_interrupt_says_how_to_go_on(mixrank, monkeypatch):
    from mixrank.layers import registry

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "names", interrupted)
    result = mixrank("models")
    assert result.exit_code == 130
    assert "run the same command again to resume" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["train", "tfrs-baseline", "advance"])
def test_training_alone_needs_an_earlier_run(mixrank, tmp_path, command):
    result = mixrank(command, "movielens", "--set", f"output={tmp_path}")
    assert result.exit_code == 1
    assert "run the pipeline once first" in result.output


def test_training_alone_needs_rows_of_the_same_spec(mixrank, tmp_path, record_of):
    from mixrank.schemas.datasets import load

    spec = load("movielens").spec
    (tmp_path / "movielens").mkdir()
    for record, message in (
        (record_of(spec, dataset="kuairand"), "is a run of dataset kuairand, not of movielens"),
        (record_of(spec.model_copy(update={"labels": spec.labels[:1]})), "the feature spec of movielens has changed"),
    ):
        record.write(tmp_path / "movielens")
        result = mixrank("train", "movielens", "--set", f"output={tmp_path}")
        assert result.exit_code == 1
        assert message in result.output


# What takes long to import; `-X importtime` says how long.
SLOW = {"tensorflow", "keras", "tfx", "tensorflow_transform", "apache_beam", "pandas", "pyarrow", "altair", "sklearn"}
# Typer itself needs pydantic for the options of a command.
ONE = SLOW | {"numpy", "yaml", "jinja2", "grpc"}
ALL = ONE | {"pydantic", "rich"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        ("--help", ALL),
        ("run --help", ONE),
        ("rollout push --help", ONE),
        ("features kuairand", SLOW),
        ("schema movielens --check", SLOW),
        ("models", SLOW),
        ("models hemix", SLOW),
    ],
)
def test_a_command_that_only_tells_imports_nothing_slow(arguments, absent):
    code = (
        "import sys; from mixrank.pipeline.cli import app; app(sys.argv[2:], standalone_mode=False); "
        "found = set(sys.argv[1].split()) & set(sys.modules); assert not found, found"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(absent), *arguments.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_found_and_has_the_help_line_of_the_list(name):
    assert cli.load_command(name).help.partition("\n")[0] == cli.help_line(cli.COMMANDS[name]) != ""


def test_a_command_without_a_function_is_named():
    with pytest.raises(ValueError, match=r"commands/run\.py has no function runn"):
        cli.help_line("run.runn")


def test_every_command_but_three_is_refused_without_its_extra(monkeypatch, capfd):
    monkeypatch.setattr(terminal, "MODULES", dict.fromkeys(terminal.MODULES, "a_module_that_is_not_there"))
    commands = {name: cli.load_command(name) for name in cli.COMMANDS}
    for group in cli.GROUPS:
        commands |= {f"{group} {name}": command for name, command in commands.pop(group).commands.items()}
    needed = {}
    for name in commands.keys() - {"features", "doctor", "predict"}:
        with pytest.raises(typer.Exit):
            commands[name].callback()
        needed[name] = re.fullmatch(r"error: `mixrank .*` needs mixrank\[(\w+)\], which .*\n", capfd.readouterr().err)[
            1
        ]
    assert {name for name, extra in needed.items() if extra != "pipeline"} == {"models", "heads"}
