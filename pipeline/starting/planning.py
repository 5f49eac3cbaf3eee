"""From the tables of a log to its declaration: roles, features, histories, split."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixrank.pipeline.starting import words
from mixrank.pipeline.starting.columns import Column
from mixrank.pipeline.starting.describing import (
    Described,
    Dtype,
    Group,
    LeftOut,
    bound_to_day,
    describe_column,
    describe_log_column,
    history_fields,
    key_feature,
)
from mixrank.pipeline.starting.event_tables import Events, find_events
from mixrank.pipeline.starting.joining import Joined, Unused, join_tables
from mixrank.pipeline.starting.periods import Histories, cut_histories, divide, quiet_hour
from mixrank.pipeline.starting.plan import Noted, Plan
from mixrank.pipeline.starting.questions import NONE, Answers, Question
from mixrank.pipeline.starting.roles import (
    SURE,
    Guess,
    Outcome,
    choose_labels,
    guess_key,
    guess_request,
    guess_scenario,
    looks_rated,
    outcomes,
    scenario_values,
    whole_steps,
)
from mixrank.pipeline.starting.tables import Found
from mixrank.pipeline.starting.times import Time, read_time
from mixrank.schemas import (
    Action,
    Cut,
    EventTime,
    History,
    Join,
    Key,
    Label,
    LabelFrom,
    Match,
    Numeric,
    Popularity,
    Request,
    Scenario,
    Table,
    Threshold,
    TimeGap,
)

ZONE = "UTC"
# Bits of an `Action`.
MOST_FLAGS = 8
# Scenario of a log that has no column for it.
SURFACE, EVERYWHERE = "surface", "all"


@dataclass
class Log:
    """The table with the impressions, and what its columns are.

    Args:
        table: the table.
        user: key column, None for a log without users.
        item, time: columns.
        outcomes: what the user did, the labels first.
        labels: how many of them are learned.
        scenario: column, or None.
        request: column of the ranking request, or None.
    """

    table: Found
    user: Guess
    item: Guess
    time: Time
    outcomes: list[Outcome]
    labels: list[Outcome]
    scenario: Guess
    request: Guess

    @property
    def columns(self) -> dict[str, Column]:
        return self.table.columns

    @property
    def taken(self) -> set[str]:
        """Columns that have a role."""
        found = {self.item.value, self.time.column, self.user.value, self.scenario.value, self.request.value}
        return {name for name in found if name} | {outcome.column for outcome in self.outcomes}

    def label(self, outcome: Outcome) -> np.ndarray:
        """Whether every row has the outcome, as integers."""
        if outcome.events is not None:
            return outcome.events.label
        return (self.columns[outcome.column].per_row(0.0) >= (outcome.at_least or 1)).astype(int)


def plan_log(
    folder: str, tables: Sequence[Found], skipped: Sequence[str], name: str, answers: Answers, today: datetime.date
) -> Plan:
    """The declaration of a log.

    Args:
        folder: data folder.
        tables: its tables.
        skipped: what is passed over there.
        name: of the log.
        answers: columns that are told, and how to ask.
        today: later times are not plausible.

    Raises:
        ValueError: if no table has an item, a time and an outcome; what to do is in the text.
    """
    table = log_table(tables, answers, today)
    others = [each for each in tables if each is not table]
    if not table.has_names:
        table = _named(table, today)
    log = _roles(table, others, answers, today)
    used = [outcome.events.table for outcome in log.outcomes if outcome.events is not None]
    rest = [each for each in others if each not in used]
    joined, unused = join_tables(table, rest, log.user.value, str(log.item.value))
    return _Planner(folder, name, log, joined, unused, list(skipped), today).plan()


def log_table(tables: Sequence[Found], answers: Answers, today: datetime.date) -> Found:
    """The table with the impressions: the one with an item, a time and an outcome; of several, the longest."""

    def fitness(table: Found) -> tuple[float, int]:
        columns = table.columns
        told = sum(name in columns for about in ("user", "item", "time", "label") for name in answers.of(about))
        user, item = guess_key(columns, "user"), guess_key(columns, "item")
        has_time = any(read_time(column, today) for column in columns.values())
        found = outcomes(columns, (), None, item.value or "")
        named = bool(found) and found[0].confidence >= 0.6
        score = 10 * told + 2.0 * has_time + (user.confidence > 0.5) + (item.confidence > 0.5) + 1.5 * named
        return score, table.rows

    best = max(tables, key=fitness)
    return best


def _named(table: Found, today: datetime.date) -> Found:
    """The log of a file without names of columns, under names that say what the columns look like."""
    columns = dict(table.columns)
    names: dict[str, str] = {}
    times = [name for name, column in columns.items() if column.is_number and read_time(_as_time(column), today)]
    if times:
        names[times[0]] = "timestamp"
    rest = [name for name in columns if name not in names]
    keys = [n for n in rest if columns[n].look in ("int", "text") and columns[n].distinct > 20][:2]
    names |= dict(zip(keys, ("user_id", "item_id"), strict=False))
    for name in rest:
        if name not in names and columns[name].is_binary and "click" not in names.values():
            names[name] = "click"
        elif name not in names and looks_rated(columns[name]) and "rating" not in names.values():
            names[name] = "rating"
    new = {names.get(name, name): replace(column, name=names.get(name, name)) for name, column in columns.items()}
    given = tuple(names.get(name, name) for name in table.table.columns or ())
    return replace(
        table,
        columns=new,
        names={name: name for name in new},
        table=table.table.model_copy(update={"columns": given}),
    )


def _as_time(column: Column) -> Column:
    return replace(column, name="time")


def _roles(table: Found, others: Sequence[Found], answers: Answers, today: datetime.date) -> Log:
    columns = table.columns
    for about in ("user", "item", "time", "label", "scenario"):
        for name in answers.of(about):
            if name != NONE and name not in columns:
                raise ValueError(
                    f"--{about} names column `{name}`, which {table.name} does not have; it has {', '.join(columns)}"
                )
    time = _time(table, answers, today)
    taken = {time.column}
    item = _key(table, others, "item", answers, taken, time)
    if item.value is None:
        raise ValueError(f"{item.why} in {table.name} ({', '.join(columns)}); name it by --item COLUMN")
    user = _key(table, others, "user", answers, {*taken, item.value}, time)
    taken |= {item.value, *([user.value] if user.value else [])}
    found = _outcomes(table, others, answers, taken, user.value, item.value, time, today)
    labels = choose_labels(found, table.sampled)
    if told := answers.of("label"):
        labels = [outcome for outcome in found if outcome.column in told]
    elif answers.ask is not None and (labels[0].confidence < SURE or len(found) > len(labels)):
        labels = _ask_label(answers, found, labels)
    ordered = labels + [outcome for outcome in found if outcome not in labels]
    scenario = _scenario(table, answers, {*taken, *(o.column for o in found)}, user.value, item.value)
    request = guess_request(columns, {*taken, scenario.value, *(o.column for o in found)}, user.value)
    return Log(table, user, item, time, ordered, labels, scenario, request)


def _time(table: Found, answers: Answers, today: datetime.date) -> Time:
    columns = table.columns
    if told := answers.of("time"):
        found = read_time(_as_time(columns[told[0]]), today)
        if found is None:
            raise ValueError(
                f"column `{told[0]}` of {table.name} is no time between 1995 and tomorrow: {columns[told[0]].range()}"
            )
        return replace(found, column=told[0], confidence=1.0)
    times = [time for column in columns.values() if (time := read_time(column, today)) is not None]
    if not times:
        raise ValueError(
            f"no column of {table.name} looks like a time ({', '.join(columns)}); name it by --time COLUMN"
        )
    times.sort(key=lambda time: -time.confidence)
    best = times[0]
    sure = best.confidence >= SURE or len(times) == 1
    question = Question(
        "time", f"When was an item shown? ({best.why})", best.column, tuple(time.column for time in times[1:])
    )
    chosen, by_person = answers.choose(question, sure)
    found = next((time for time in times if time.column == chosen), None)
    if found is None:
        return _time(table, Answers({"time": (str(chosen),)}), today)
    return replace(found, confidence=1.0) if by_person else found


def _key(table: Found, others: Sequence[Found], role: str, answers: Answers, taken: set[str], time: Time) -> Guess:
    columns = table.columns
    if told := answers.of(role):
        return Guess(None if told[0] == NONE else told[0], 1.0, "as told")
    day = time.day
    hint = _hint(table, others, role)
    guess = guess_key(columns, role, taken, hint, again=lambda column: not bound_to_day(column, day))
    text = "Who saw the items?" if role == "user" else "What was shown?"
    question = Question(role, f"{text} ({guess.why})", guess.value or NONE, guess.others)
    chosen, by_person = answers.choose(question, guess.confidence >= SURE)
    if by_person:
        if chosen is not None and chosen not in columns:
            raise ValueError(f"{table.name} has no column `{chosen}`; it has {', '.join(columns)}")
        return Guess(chosen, 1.0, "as told")
    return guess


def _hint(table: Found, others: Sequence[Found], role: str) -> str:
    """A column of the log by which a table of users or items has one row per value."""
    wanted = set(words.USER if role == "user" else words.ITEM)
    for other in others:
        if {words.singular(word) for word in words.words(other.name.rpartition(".")[0])} & wanted:
            for name, column in other.columns.items():
                if name in table.columns and column.distinct == column.rows > 1:
                    return name
    return ""


def _outcomes(
    table: Found,
    others: Sequence[Found],
    answers: Answers,
    taken: set[str],
    user: str | None,
    item: str,
    time: Time,
    today: datetime.date,
) -> list[Outcome]:
    columns = table.columns
    told = [name for name in answers.of("label") if name != NONE]
    events = [_of_events(each) for each in find_events(table, others, user, item, time, today)]
    found = outcomes(columns, taken, user, item)
    # A guess from an odd name or a number stands back behind a table of events.
    found = events + found if events and (not found or found[0].confidence < SURE) else found + events
    for name in told:
        if name not in {outcome.column for outcome in found}:
            found += outcomes({name: replace(columns[name], name=name)}, (), None, "") or [_told(columns[name])]
    if not found:
        raise ValueError(
            f"no column of {table.name} looks like a label: one of 0 and 1, a rating, or a time spent "
            f"({', '.join(columns)}); name it by --label COLUMN. A log of nothing but clicks or orders needs rows of "
            "what was shown and not chosen"
        )
    return found


def _of_events(events: Events) -> Outcome:
    why = f"a row of {events.table.name} follows within {events.within}; {events.following:.0%} of its rows do"
    return Outcome(events.name, float(events.label.mean()), None, events.name, 0.8, why, events)


def _told(column: Column) -> Outcome:
    if not column.is_number or column.distinct < 2:
        raise ValueError(f"label `{column.name}` must be a number with two values or more, it is {column.range()}")
    if column.is_binary:
        return Outcome(column.name, float(np.mean(column.per_row() == 1)), None, column.name, 1.0, "as told")
    assert column.numbers is not None
    at_least = float(np.median(column.per_row()[column.codes >= 0]))
    at_least = at_least if at_least > column.numbers.min() else float(np.sort(column.numbers)[1])
    share = float(np.mean(column.per_row() >= at_least))
    return Outcome(column.name, share, at_least, f"{column.name}_high", 0.5, "as told, cut at its median")


def _ask_label(answers: Answers, found: list[Outcome], labels: list[Outcome]) -> list[Outcome]:
    first = labels[0]
    choices = tuple(outcome.column for outcome in found if outcome is not first)
    question = Question("label", f"What should be predicted? ({first.why}; {first.share:.1%})", first.column, choices)
    chosen, _ = answers.choose(question, False)
    if chosen is None or chosen == first.column:
        return labels
    wanted = [outcome for outcome in found if outcome.column == chosen]
    return wanted or labels


def _scenario(table: Found, answers: Answers, taken: set[str], user: str | None, item: str) -> Guess:
    if told := answers.of("scenario"):
        return Guess(None if told[0] == NONE else told[0], 1.0, "as told")
    guess = guess_scenario(table.columns, taken, user, item)
    few = tuple(
        name
        for name, column in table.columns.items()
        if name not in taken and 2 <= column.distinct <= 30 and not column.missing_share and column.lengths is None
    )
    question = Question("scenario", f"Where was it shown? ({guess.why})", guess.value or NONE, few)
    chosen, by_person = answers.choose(question, guess.confidence >= SURE)
    return Guess(chosen, 1.0, "as told") if by_person else guess


class _Planner:
    """Writes down, one part of the declaration after the other."""

    def __init__(
        self,
        folder: str,
        name: str,
        log: Log,
        joined: list[Joined],
        unused: list[Unused],
        skipped: list[str],
        today: datetime.date,
    ):
        self.folder, self.name, self.log, self.today = folder, name, log, today
        self.joined, self.unused, self.skipped = joined, unused, skipped
        self.main = log.label(log.labels[0])
        self.day = log.time.day
        self.keys = {"item": log.columns[str(log.item.value)]}
        if log.user.value is not None:
            self.keys["user"] = log.columns[log.user.value]
        self.dtypes: dict[str, Dtype] = {role: self._dtype(role, column) for role, column in self.keys.items()}

    def plan(self) -> Plan:
        log = self.log
        described, left_out, renamed = self._columns()
        fields, histories = self._fields(), self._histories()
        flags = [outcome.name for outcome in log.outcomes if outcome.at_least is None or outcome in log.labels]
        labels = [log.label(outcome) for outcome in log.labels]
        user = self.keys["user"].codes if "user" in self.keys else None
        divided = divide(user, self.day, labels, ZONE, log.time.form != "date")
        popularity = self._popularity()
        scenario, derive = self._scenario()
        return Plan(
            name=self.name,
            folder=self.folder,
            user=self._user(),
            item=self._key("item", log.item),
            time=self._time(),
            scenario=scenario,
            labels=[self._label(outcome) for outcome in log.labels],
            features=[
                *described,
                *self._popular(popularity),
                *self._sequences(fields, histories, flags),
                *(Noted(None, f"left out: {each.column}, {each.why}", each.doubt) for each in left_out),
            ],
            log=Noted(
                _declared(log.table, {*log.taken, *(each.feature.name for each in self.described)}),
                f"{log.table.rows:,} rows in {_files(log.table)}",
            ),
            joins=self._joins(renamed),
            labels_from=self._labels_from(),
            derive=derive,
            popularity=popularity,
            window=Noted(histories.window, histories.why) if histories is not None else None,
            split=Noted(divided.split, divided.why, divided.doubt),
            fields=fields if histories is not None else (),
            rows=log.table.rows,
            validates=divided.validates,
            zone=self._zone(),
            request=self._request(),
        )

    def _dtype(self, role: str, column: Column) -> Dtype:
        """Text, unless its values are whole numbers; leading zeros that some rows lack mean nothing."""
        if column.look != "int":
            return "str"
        assert column.numbers is not None
        if not column.padded:
            return "int"
        lengths = {len(str(value)) for value in column.values}
        same = len(np.unique(column.numbers)) < 0.98 * column.distinct
        return "int" if same and len(lengths) > 1 else "str"

    def _user(self) -> Noted:
        log = self.log
        if log.user.value is None:
            doubt = f"which column is the user? {_or(log.user.others)}" if log.user.others else ""
            name = "row"
            while name in log.columns:
                name += "_"
            return Noted(Key(name, per_row=True), f"{log.user.why}: every row is a user of its own", doubt)
        return self._key("user", log.user)

    def _key(self, role: str, guess: Guess) -> Noted:
        column, dtype = self.keys[role], self.dtypes[role]
        doubt = ""
        if guess.confidence < SURE:
            doubt = f"is this the {role}?" + (f" It could be {_or(guess.others)}" if guess.others else "")
        elif column.padded and dtype == "int":
            doubt = "some are written with leading zeros and some without; as numbers they are the same"
        options: dict[str, Any] = {} if dtype == "int" else {"dtype": dtype}
        return Noted(Key(str(guess.value), **options), guess.why, doubt)

    def _request(self) -> Noted | None:
        guess = self.log.request
        if guess.value is None:
            return None
        dtype = self._dtype("request", self.log.columns[guess.value])
        options: dict[str, Any] = {} if dtype == "int" else {"dtype": dtype}
        why = f"{guess.why}; the order inside each request is judged too"
        return Noted(Request(guess.value, **options), why)

    def _time(self) -> Noted:
        time = self.log.time
        doubt = ""
        if time.confidence < 0.5:
            doubt = "is this when the item was shown?"
        return Noted(_event_time(time), time.why, doubt)

    def _zone(self) -> Noted:
        why = "Zone whose days begin histories and splits."
        doubt = "which zone is yours?"
        hour = quiet_hour(self.log.time.ms)
        if hour is not None and self.log.time.form != "date":
            offset = (4 - hour + 11) % 24 - 11
            doubt += f" The fewest rows come at {hour:02d}:00 UTC; if that is 4 at night, it is UTC{offset:+d}"
        return Noted(ZONE, why, doubt)

    def _scenario(self) -> tuple[Noted, dict[str, Noted]]:
        log = self.log
        derive = {
            outcome.name: Noted(Threshold(outcome.column, at_least=outcome.at_least), outcome.why)
            for outcome in log.labels
            if outcome.at_least is not None
        }
        if log.scenario.value is None:
            name = SURFACE
            while name in log.columns:
                name += "_"
            one = Cut(log.time.column, edges=(), names=(EVERYWHERE,))
            derive[name] = Noted(one, "one value for all rows, whatever their time")
            doubt = "a column that says where an item was shown would be learned and judged by"
            return Noted(Scenario(name, values=(EVERYWHERE,)), log.scenario.why, doubt), derive
        values, rest = scenario_values(log.columns[log.scenario.value])
        doubt = ""
        if log.scenario.confidence < SURE:
            doubt = "is this where an item was shown?"
            if log.scenario.others:
                doubt += f" It could be {_or(log.scenario.others)}"
        why = log.scenario.why + (f"; other values, {rest:.1%} of the rows, count as one" if rest > 0 else "")
        return Noted(Scenario(log.scenario.value, values=values), why, doubt), derive

    def _label(self, outcome: Outcome) -> Noted:
        why = f"{outcome.why}; {outcome.share:.1%} of the rows"
        doubt = ""
        if outcome.confidence < SURE:
            doubt = "is this what should be predicted?"
            if outcome.at_least is not None:
                doubt += f" `{outcome.column}` >= {outcome.at_least:g} is in `derive`"
                if steps := whole_steps(self.log.columns[outcome.column]):
                    doubt += f'; every step is learned by Label("{outcome.column}", kind="ordinal", classes={steps})'
        return Noted(Label(outcome.name), why, doubt)

    def _labels_from(self) -> dict[str, Noted]:
        log = self.log
        found = {}
        for outcome in log.outcomes:
            if (events := outcome.events) is None:
                continue
            options: dict[str, Any] = {} if events.on == (log.user.value, log.item.value) else {"on": events.on}
            if (events.time.column, events.time.form) != (log.time.column, log.time.form):
                options["time"] = _event_time(events.time)
            table = _declared(events.table, {*events.on, events.time.column})
            doubt = f"are later events none of the impression's? {events.within} covers nearly all"
            found[outcome.name] = Noted(LabelFrom(table=table, within=events.within, **options), outcome.why, doubt)
        return found

    def _columns(self) -> tuple[list[Noted], list[LeftOut], dict[str, dict[str, str]]]:
        """Features by group, columns that are left out, and new names of columns of joined tables."""
        log = self.log
        found: list[Described] = [self._of_key(role) for role in self.keys]
        left_out: list[LeftOut] = []
        used = {*log.taken, *(outcome.name for outcome in log.outcomes), SURFACE}
        for name, column in log.columns.items():
            if name in log.taken:
                continue
            used.add(name)
            if (time := read_time(column, self.today)) is not None and time.confidence >= 0.5:
                left_out.append(LeftOut(name, f"a time as well; `{log.time.column}` is used"))
                continue
            each = describe_log_column(column, self.keys, self.day, self.main, self.today)
            (found if isinstance(each, Described) else left_out).append(each)  # type: ignore[arg-type]
        for outcome in log.outcomes:
            if outcome.at_least is not None:
                left_out.append(LeftOut(outcome.column, f"a rating or measure; `{outcome.name}` is derived from it"))
        renamed: dict[str, dict[str, str]] = {}
        for joined in self.joined:
            renamed[joined.table.name] = {}
            for name, column in joined.table.columns.items():
                if name == joined.column:
                    continue
                each = self._of_table(joined, name, column)
                if isinstance(each, Described):
                    if name in used:
                        # The log's column of that name would be read in its place.
                        new = f"{words.cleaned(_stem(joined.table.name))}_{name}"
                        renamed[joined.table.name][name] = new
                        each = replace(each, feature=each.feature.model_copy(update={"name": new}))
                    used.add(each.feature.name)
                    found.append(each)
                else:
                    left_out.append(each)
        order: tuple[Group, ...] = ("user", "item", "context")
        self.described = sorted(found, key=lambda each: order.index(each.feature.group))
        return [Noted(each.feature, each.why, each.doubt) for each in self.described], left_out, renamed

    def _of_key(self, role: str) -> Described:
        column = self.keys[role]
        feature = key_feature(column, column.name, role, self.dtypes[role])  # type: ignore[arg-type]
        return Described(feature, f"the {role}; {column.distinct:,} values", column.distinct)

    def _of_table(self, joined: Joined, name: str, column: Column) -> Described | LeftOut:
        parts = set(words.words(name))
        of = f"{name} of {joined.table.name}"
        counted = bool(parts & words.COUNTED and parts & {*words.POSITIVE, *words.NEGATIVE, "show", "impression"})
        if joined.on == "item" and column.is_number and counted:
            return LeftOut(of, "counted over which days? What it counts after an impression gives the label away")
        each = describe_column(column, joined.on, self.today)
        return replace(each, column=of) if isinstance(each, LeftOut) else each

    def _fields(self) -> tuple[str, ...]:
        item = self.keys["item"]
        return (*history_fields(self.described, item.name, item.distinct), "action", "gap")

    def _histories(self) -> Histories | None:
        return cut_histories(self.keys["user"].codes, self.log.time.ms, ZONE) if "user" in self.keys else None

    def _sequences(self, fields: tuple[str, ...], histories: Histories | None, flags: list[str]) -> list[Noted]:
        if histories is None:
            return []
        found = [
            Noted(Action("action", flags=tuple(flags[:MOST_FLAGS])), "what the user did with an earlier item"),
            Noted(TimeGap("gap"), "how long ago that was"),
        ]
        for name, window, cut in (("earlier", "before", histories.before), ("recent", "within", histories.within)):
            if cut is not None:
                share, length = cut
                history = History(name, of=fields, length=length, window=window)  # type: ignore[arg-type]
                found.append(Noted(history, f"{share:.0%} of the rows have one"))
        labels = tuple(outcome.name for outcome in self.log.labels if outcome.name in flags[:MOST_FLAGS])
        taken = {*self.log.columns, *(each.feature.name for each in self.described)}
        for field in fields:
            if field not in ("action", "gap"):
                name = f"same_{field}"
                while name in taken:
                    name += "_"
                why = f"how often the user met this `{field}` before, how lately and with which outcome"
                found.append(Noted(Match(name, of=field, flags=labels), why))
        return found

    def _popularity(self) -> dict[str, Noted]:
        if len(np.unique(self.day[self.day >= 0])) < 3:
            return {}
        item = self.keys["item"].name
        return {
            f"{item}_{outcome.name}_rate": Noted(Popularity(of=item, label=outcome.name, timezone=ZONE))
            for outcome in self.log.labels
        }

    def _popular(self, popularity: dict[str, Noted]) -> list[Noted]:
        return [
            Noted(
                Numeric(name, group="item"),
                f"how often the item got `{noted.value.label}` on earlier days; counted by `popularity` below",
            )
            for name, noted in popularity.items()
        ]

    def _joins(self, renamed: dict[str, dict[str, str]]) -> list[Noted]:
        found = []
        for joined in self.joined:
            table, key = joined.table, self.keys[joined.on]
            new = {joined.column: key.name, **renamed[table.name]}
            why = f"{table.name}: one row per `{joined.column}`; {joined.matched:.0%} of the log's rows have theirs"
            doubt = "where are the others?" if joined.matched < 0.9 else ""
            used = {each.feature.name for each in self.described}
            found.append(Noted(Join(table=_declared(table, used, new), on=joined.on), why, doubt))
        found += [Noted(None, f"not used: {each.table.name}, {each.why}") for each in self.unused]
        found += [Noted(None, f"passed over: {each}") for each in self.skipped]
        return found


def _event_time(time: Time) -> EventTime:
    if time.form == "iso" or time.form == "date":
        zone: dict[str, Any] = {} if time.has_zone else {"timezone": ZONE}
        return EventTime(time.column, format="iso", **zone)
    return EventTime(time.column, unit=time.form)


def _declared(table: Found, used: set[str], keys: dict[str, str] | None = None) -> Table:
    """The table, with new names for columns that are used only.

    Args:
        table: the table.
        used: cleaned names of the columns that are used.
        keys: cleaned name -> another name.
    """
    new = {name: name for name in used} | (keys or {})
    rename = {raw: new[name] for name, raw in table.names.items() if name in new and raw != new[name]}
    given = _given(table.table)
    given.pop("rename", None)
    if rename:
        given["rename"] = rename
    return Table(**given)


def _given(table: Table) -> dict[str, Any]:
    return {name: getattr(table, name) for name in type(table).model_fields if name in table.model_fields_set}


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _files(table: Found) -> str:
    return table.name if len(table.files) == 1 else f"{len(table.files)} files"


def _or(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:5]]
    return " or ".join(shown)
