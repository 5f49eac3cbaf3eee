"""All columns of a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from mixrank.schemas.features.computed_features import Cross, Expression, Match
from mixrank.schemas.features.encodings import Vocab
from mixrank.schemas.features.event_features import Action, History, TimeGap
from mixrank.schemas.features.formulas import evaluate_formula
from mixrank.schemas.features.keys import KEYS, EventTime, Key, Label, Position, Request, Scenario
from mixrank.schemas.features.named import Group
from mixrank.schemas.features.row_features import Categorical, MultiCategorical, Numeric, Vector
from mixrank.schemas.features.side_features import Lookup, VectorTable
from mixrank.schemas.features.unions import (
    AnyCategorical,
    AnyFromFile,
    EventField,
    Feature,
    LookedUp,
    ModelFeature,
    RowFeature,
    is_of_event,
    is_of_row,
    is_read,
)
from mixrank.schemas.features.vector_file import SideFile
from mixrank.schemas.naming import Declaration, nearest


class FeatureSpec(Declaration):
    """All columns of a row: keys, time, scenario, labels and features.

    Args:
        name: name of the log.
        user, item: key columns; `user=Key("row", per_row=True)` for a log without users.
        time: event time column.
        scenario: scenario column.
        labels: one per task, in the order of the model's heads.
        features: everything the model reads besides the scenario.
        row_weight: column of the log with a weight >= 0 of each row, such as how many impressions it stands for; None
            if all rows count alike. Loss, metrics, baselines and gates weigh rows by it; no model reads it. It is
            divided by its mean over the training rows, so its unit does not matter.
        request: column of the ranking request, or None if the log has none.
        position: column with the place of the impression in its list, whose effect training tells from that of all
            else; None if there is none.

    Raises:
        ValueError: names that collide, or a history of a field that does not exist; the nearest name is in the text.
    """

    name: str
    user: Key
    item: Key
    time: EventTime
    scenario: Scenario
    labels: tuple[Label, ...] = Field(min_length=1)
    features: tuple[Annotated[Feature, Field(discriminator="type")], ...] = Field(min_length=1)
    request: Request | None = None
    row_weight: str | None = None
    position: Position | None = None

    @model_validator(mode="after")
    def _check(self) -> FeatureSpec:
        if self.user.name == self.item.name:
            raise ValueError(f"`user` and `item` must be two columns, both are `{self.user.name}`")
        owners = dict.fromkeys(KEYS.values(), "the name of a key after Transform")
        outputs = [column for feature in self.features for column in _columns(feature)]
        for column, owner in (
            [(self.time.name, "time"), (self.scenario.name, "scenario")]
            + ([(self.request.name, "request")] if self.request else [])
            + [(label.name, "label") for label in self.labels]
            + [(column, "row weight") for column in self.row_weights]
            + [(column, f"what label `{label.name}` becomes") for label in self.labels for column in label.made]
            + [(column, "whether a label is mature") for column in self.mature]
            + ([(self.position.name, "position")] if self.position is not None else [])
            + outputs
            + [(column, f"`{each.name}` in a history") for column, each in self._in_histories()]
            + [(c, f"weights of `{f.name}` in a history") for h in self.histories for c, f in self.weights_in(h)]
        ):
            if column in owners:
                raise ValueError(f"column `{column}` is declared twice: as {owners[column]} and as {owner}")
            owners[column] = owner
        if self.request is not None and self.request.name in (self.user.name, self.item.name):
            raise ValueError(f"`request` must be a column of its own, `{self.request.name}` is the user or the item")
        named = {self.scenario.name}
        for feature in self.features:
            if feature.name in named:
                raise ValueError(f"two features are called `{feature.name}`; tables and histories need distinct names")
            named.add(feature.name)
        for key in (self.user, self.item):
            shared = self.get(key.name)
            if key.name in owners and not isinstance(shared, Categorical):
                raise ValueError(
                    f"key `{key.name}` may share its column with a Categorical only, not {owners[key.name]}"
                )
            if isinstance(shared, Categorical) and shared.group == "event":
                raise ValueError(f"feature `{key.name}` has the name of a key, which rows have: its group is not event")
            if isinstance(shared, Categorical) and shared.dtype != key.dtype:
                raise ValueError(f"key and feature `{key.name}` differ in dtype: {key.dtype} and {shared.dtype}")
        if self.item.per_row:
            raise ValueError(f"item `{self.item.name}` cannot have per_row=True; only a user may have no column")
        if self.user.per_row and self.user.name in owners:
            raise ValueError(f"key `{self.user.name}` with per_row=True has no column for {owners[self.user.name]}")
        for label in self.labels:
            others = [other.name for other in self.labels if other.name != label.name and other.is_flag]
            if label.given is not None and label.given not in others:
                raise ValueError(
                    f"label `{label.name}` is given {label.given!r}, which must be another binary label"
                    f"{nearest(label.given, others)}"
                )
        answered: dict[str, str] = {}
        for label in self.labels:
            for output in label.outputs:
                if output in answered:
                    raise ValueError(
                        f"labels `{answered[output]}` and `{label.name}` both have an output `{output}`: rename one"
                    )
                answered[output] = label.name
        numbers = [feature.name for feature in self.inputs if isinstance(feature, Numeric)]
        for label in self.labels:
            if label.duration is not None and label.duration not in numbers:
                raise ValueError(
                    f"label `{label.name}` has the duration `{label.duration}`, which must be a Numeric of the spec"
                    f"{nearest(label.duration, numbers)}"
                )
        if len(sampled := [label.name for label in self.labels if label.keep_negatives < 1]) > 1:
            raise ValueError(f"`keep_negatives` is for one label at most, received {' and '.join(sampled)}")
        if self.position is not None and not self.biased_tasks:
            raise ValueError(
                f"position `{self.position.name}` needs a binary label that is given no other, whose logit it moves"
            )
        self._check_histories()
        self._check_matches()
        self._check_crosses()
        self._check_expressions()
        self._check_lookups()
        self._check_tables()
        return self

    def _check_histories(self) -> None:
        fields = [feature.name for feature in self.features if is_of_event(feature)]
        for history in self.histories:
            if self.user.per_row and history.in_row is None:
                raise ValueError(f"history `{history.name}` needs a user, but key `{self.user.name}` is per_row")
            for field in history.of:
                if field not in fields:
                    raise ValueError(
                        f"history `{history.name}` has no field `{field}`: a field is a feature of group item or "
                        f"event, an Action or a TimeGap{nearest(field, fields)}"
                    )
            for _, listed in self.history_fields(history):
                if listed.is_embedded_number:
                    raise ValueError(
                        f'history `{history.name}` lists `{listed.name}`, whose transform "autodis" is for rows alone'
                    )
                if history.in_row is not None and not isinstance(listed, Categorical | Numeric):
                    raise ValueError(
                        f"history `{history.name}` with `in_row` lists `{listed.name}`, a {type(listed).__name__}: it "
                        "takes Categorical and Numeric features; a Lookup or VectorTable says more about their values"
                    )
            if all(field.is_number for _, field in self.history_fields(history)):
                raise ValueError(
                    f"history `{history.name}` lists numbers alone, which do not say where its events end: list a "
                    f"{'TimeGap' if history.in_row is None else 'Categorical'} as well"
                )
            if history.only is not None and history.events is None and history.only not in self.flags:
                raise ValueError(
                    f"history `{history.name}`: `only` names {history.only!r}, which is neither a flag of an Action "
                    f"nor a label{nearest(history.only, self.flags)}"
                )
        used = {field for history in self.histories for field in history.of}
        for feature in self.features:
            if is_of_event(feature) and not is_of_row(feature) and feature.name not in used:
                raise ValueError(f"`{feature.name}` is a history-only field but no history lists it in `of`")
            if is_of_event(feature) and isinstance(feature, RowFeature) and feature.group == "event":
                self._check_event_feature(feature)

    def _check_event_feature(self, feature: RowFeature) -> None:
        what = f"feature `{feature.name}` of group event"
        if feature.required or feature.drift is not None:
            raise ValueError(f"{what} is in no row: `required` and `drift` are not for it")
        if not isinstance(feature, Categorical | MultiCategorical):
            return
        if isinstance(feature, Categorical) and feature.initial is not None:
            raise ValueError(f"{what} has `initial`: give it to a feature of rows, and name that one in `table`")
        if feature.table is None and isinstance(feature.vocab, Vocab):
            raise ValueError(f"{what} has a `Vocab`, which counts values of rows: give it a `Hash`, or a `table`")

    def _check_matches(self) -> None:
        for match in self.matches:
            what = f"match `{match.name}`"
            fields = [f.name for f in self.categorical if any(f.name in history.of for history in self.histories)]
            if match.of not in fields:
                raise ValueError(
                    f"{what} is of `{match.of}`, which must be a categorical item feature that a history lists"
                    f"{nearest(match.of, fields)}"
                )
            listed = [history.name for history in self.histories if match.of in history.of]
            for name in match.histories:
                if name not in listed:
                    raise ValueError(
                        f"{what} names history `{name}`, which must be one that lists `{match.of}`"
                        f"{nearest(name, listed)}"
                    )
            if not self.searched(match):
                raise ValueError(
                    f"{what}: no history of impressions lists `{match.of}`; name those to search in `histories`: "
                    f"{', '.join(listed)}"
                )
            for history in self.searched(match):
                if match.recency and self.gap_of(history) is None:
                    raise ValueError(
                        f"{what} tells how long ago an event was, and history `{history.name}` lists no TimeGap: list "
                        "one, or set recency=False"
                    )
                for flag in match.flags:
                    if flag not in (known := self.flags_of(history)):
                        raise ValueError(
                            f"{what} counts {flag!r}, which is no flag of an Action in history `{history.name}`"
                            f"{nearest(flag, known)}"
                        )

    def _check_crosses(self) -> None:
        known = {feature.name: feature for feature in self.categorical if feature.max_values is None}
        for cross in self.crosses:
            what = f"cross `{cross.name}`"
            for name in cross.of:
                if name not in known and name != self.scenario.name:
                    raise ValueError(
                        f"{what} is of `{name}`, which must be a Categorical or the scenario"
                        f"{nearest(name, [*known, self.scenario.name])}"
                    )
            if len(set(cross.of)) != len(cross.of):
                raise ValueError(f"{what} must be of distinct features, received {cross.of}")
            self._check_group(what, cross.of, cross.group)

    def _check_expressions(self) -> None:
        known = [feature.name for feature in self.numbers]
        for expression in self.expressions:
            what = f"expression `{expression.name}`"
            for name in expression.of:
                if name not in known:
                    raise ValueError(f"{what} is of `{name}`, which must be a Numeric{nearest(name, known)}")
            self._check_group(what, expression.of, expression.group)

    def _check_lookups(self) -> None:
        known = [feature.name for feature in self.categorical if feature.max_values is None]
        for lookup in self.from_files:
            what = f"{lookup.type} `{lookup.name}`"
            if lookup.of not in known:
                raise ValueError(f"{what} is of `{lookup.of}`, which must be a Categorical{nearest(lookup.of, known)}")
            self._check_group(what, (lookup.of,), lookup.group)
            if lookup.histories and lookup.is_embedded_number:
                raise ValueError(f'{what} names histories, and its transform "autodis" is for rows alone')
            listed = [history.name for history in self.histories if lookup.of in history.of]
            for name in lookup.histories:
                if name not in listed:
                    raise ValueError(
                        f"{what} names history `{name}`, which must be one that lists `{lookup.of}`"
                        f"{nearest(name, listed)}"
                    )

    def _in_histories(self) -> Iterator[tuple[str, AnyFromFile]]:
        for history in self.histories:
            yield from self.added_to(history)

    def _check_group(self, what: str, of: tuple[str, ...], group: Group) -> None:
        """Refuses a group other than that of what a feature is computed from."""
        of_item = any(feature.name in of and feature.group == "item" for feature in self.inputs)
        if (group == "item") is not of_item:
            right = "item" if of_item else "user or context"
            raise ValueError(f"{what} is of {of}: it must be of group {right}, not {group}")

    def _check_tables(self) -> None:
        owners = {feature.name: feature for feature in self.all_categorical if feature.table is None}
        for feature in self.all_categorical:
            if feature.table is None:
                continue
            what = f"feature `{feature.name}` uses the table of `{feature.table}`"
            if feature.table not in owners:
                near = nearest(feature.table, owners)
                raise ValueError(f"{what}, which must be a categorical feature with a table of its own{near}")
            for field in ("dtype", "vocab", "dim"):
                own, other = getattr(feature, field), getattr(owners[feature.table], field)
                if own != other:
                    raise ValueError(
                        f"{what}, whose `{field}` is {other!r}, and its own is {own!r}: they must be equal"
                    )

    def get(self, name: str) -> Feature | None:
        """The feature of this name, or None."""
        return next((feature for feature in self.features if feature.name == name), None)

    @property
    def row_keys(self) -> dict[str, Key | EventTime | Request]:
        """Role in `KEYS` -> the column that identifies a row by it."""
        found: dict[str, Key | EventTime | Request] = {"user": self.user, "item": self.item, "time": self.time}
        return found if self.request is None else {**found, "request": self.request}

    @property
    def key_columns(self) -> list[str]:
        """Names of the columns that together identify a row: user, item and time, then the request if there is one."""
        return [key.name for key in self.row_keys.values()]

    @property
    def histories(self) -> tuple[History, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, History))

    @property
    def inputs(self) -> tuple[RowFeature, ...]:
        """The raw columns of a row, in declaration order."""
        return tuple(feature for feature in self.features if is_of_row(feature))

    @property
    def model_features(self) -> tuple[ModelFeature, ...]:
        """What a model reads as one vector each: `inputs` and what is computed from them, in declaration order."""
        return tuple(feature for feature in self.features if is_read(feature))

    @property
    def matches(self) -> tuple[Match, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Match))

    @property
    def crosses(self) -> tuple[Cross, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Cross))

    @property
    def numbers(self) -> tuple[Numeric, ...]:
        return tuple(feature for feature in self.inputs if isinstance(feature, Numeric))

    @property
    def all_numbers(self) -> tuple[Numeric, ...]:
        """`numbers`, and those that only events have, in declaration order."""
        return tuple(feature for feature in self.features if isinstance(feature, Numeric))

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Expression))

    @property
    def looked_up(self) -> tuple[LookedUp, ...]:
        """The features with a vocabulary or a hash, and a table, of their own, in declaration order."""
        types = Categorical | MultiCategorical | Cross | Lookup
        return tuple(f for f in self.features if isinstance(f, types) and f.owner == f.name)

    @property
    def trained_tables(self) -> tuple[str, ...]:
        """Owners of the embedding tables that training changes; the scenario is one."""
        features = [f for f in self.features if not isinstance(f, History)]
        owners = (f.owner for f in features if not (f.is_number or f.is_frozen))
        return tuple(dict.fromkeys([self.scenario.name, *owners]))

    def evaluate(
        self,
        expression: Expression,
        columns: Mapping[str, Any],
        functions: Mapping[str, Callable[..., Any]],
        number: Callable[[float], Any],
    ) -> Any:
        """The value of an expression, NaN where it is missing.

        Args:
            expression: its declaration.
            columns: number of the row -> its raw values, missing where they are not finite; arrays or tensors.
            functions: those of a formula, and `where` and `is_finite`, for such arrays.
            number: makes such an array of a number.
        """
        known, where = functions["is_finite"], functions["where"]
        filled = {}
        for feature in self.numbers:
            if feature.name in expression.of:
                column = columns[feature.name]
                instead = math.nan if feature.default is None else feature.default
                filled[feature.name] = where(known(column), column, number(instead))
        value = evaluate_formula(expression.formula, filled, functions, number)
        return where(known(value), value, number(math.nan))

    @property
    def from_files(self) -> tuple[AnyFromFile, ...]:
        """What is looked up in files, in declaration order."""
        return tuple(feature for feature in self.features if isinstance(feature, AnyFromFile))

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Lookup))

    @property
    def vector_tables(self) -> tuple[VectorTable, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, VectorTable))

    @property
    def initial_tables(self) -> dict[str, VectorTable]:
        """Feature -> the vectors in which its embeddings begin, for those that have a file of them."""
        return {
            feature.name: VectorTable(
                feature.name,
                of=feature.name,
                group=feature.group,
                dim=feature.dim,
                **feature.initial.model_dump(),
            )
            for feature in self.features
            if isinstance(feature, Categorical) and feature.initial is not None and feature.group != "event"
        }

    def with_files(self, find: Callable[[AnyFromFile], SideFile | None]) -> FeatureSpec:
        """The spec with every side file as `find` finds it."""
        found: dict[str, Feature] = {
            each.name: each.model_copy(update={"found": find(each)}) for each in self.from_files
        }
        for feature in self.features:
            if isinstance(feature, Categorical) and feature.initial is not None:
                file = feature.initial.model_copy(update={"found": find(self.initial_tables[feature.name])})
                found[feature.name] = feature.model_copy(update={"initial": file})
        return self.model_copy(update={"features": tuple(found.get(f.name, f) for f in self.features)})

    @property
    def side_files(self) -> tuple[AnyFromFile, ...]:
        """Everything that is read from files: what is looked up there, and the vectors in which embeddings begin."""
        return (*self.from_files, *self.initial_tables.values())

    @staticmethod
    def vector_width(feature: ModelFeature | EventField) -> int:
        """Width of the vector as which a model reads a feature."""
        return feature.width if feature.is_number and not feature.is_embedded_number else feature.dim

    def added_to(self, history: History) -> Iterator[tuple[str, AnyFromFile]]:
        """(column, feature) of what Transform looks up for every event of a history, besides its raw columns."""
        for feature in self.from_files:
            if history.name in feature.histories:
                yield history.column(feature.name), feature

    @property
    def events_only(self) -> tuple[RowFeature, ...]:
        """Raw columns of events that no row has, in declaration order."""
        return tuple(f for f in self.features if isinstance(f, RowFeature) and not is_of_row(f))

    def gap_of(self, history: History) -> str | None:
        """Column of a history that says how long ago each event was, or None."""
        fields = self.history_fields(history)
        return next((column for column, field in fields if isinstance(field, TimeGap)), None)

    def flags_of(self, history: History) -> dict[str, tuple[str, int]]:
        """Flag -> column of the history whose bit masks hold it, and its bit."""
        return {
            flag: (column, bit)
            for column, field in self.history_fields(history)
            if isinstance(field, Action)
            for bit, flag in enumerate(field.flags)
        }

    def searched(self, match: Match) -> tuple[History, ...]:
        """The histories in which a match looks for the row's value."""
        listed = (history for history in self.histories if match.of in history.of)
        if match.histories:
            return tuple(history for history in listed if history.name in match.histories)
        return tuple(history for history in listed if history.of_impressions)

    @property
    def categorical(self) -> tuple[AnyCategorical, ...]:
        """The features whose raw values are categories, in declaration order."""
        return tuple(feature for feature in self.inputs if isinstance(feature, Categorical | MultiCategorical))

    @property
    def all_categorical(self) -> tuple[AnyCategorical, ...]:
        """`categorical`, and features of the same types that only events have, in declaration order."""
        return tuple(f for f in self.features if isinstance(f, Categorical | MultiCategorical))

    @property
    def weights(self) -> dict[str, AnyCategorical]:
        """Column of weights of the row -> the feature whose values they weigh."""
        weighted = [feature for feature in self.inputs if isinstance(feature, MultiCategorical)]
        return {feature.weights: feature for feature in weighted if feature.weights is not None}

    def weights_in(self, history: History) -> Iterator[tuple[str, MultiCategorical]]:
        """(column, feature) of the weights of the values of every event of a history."""
        for feature in self.features:
            if isinstance(feature, MultiCategorical) and feature.weights is not None and feature.name in history.of:
                yield history.column(feature.weights), feature

    @property
    def vocabularies(self) -> dict[str, Vocab]:
        """Feature -> how its vocabulary is counted, for those that have one."""
        return {feature.name: feature.vocab for feature in self.looked_up if isinstance(feature.vocab, Vocab)}

    @property
    def flags(self) -> tuple[str, ...]:
        """Outcome columns of the log: labels that are flags, then those of each Action in a history of the log."""
        names = [label.name for label in self.labels if label.is_flag]
        return tuple(dict.fromkeys([*names, *self._flags_in(None)]))

    def flags_of_events(self, events: str) -> tuple[str, ...]:
        """Flags that histories read from the rows of an event table."""
        only = [history.only for history in self.histories if history.events == events and history.only is not None]
        return tuple(dict.fromkeys([*only, *self._flags_in(events)]))

    def _flags_in(self, events: str | None) -> list[str]:
        actions = {feature.name: feature.flags for feature in self.features if isinstance(feature, Action)}
        listed = [field for history in self.histories if history.events == events for field in history.of]
        return [flag for name, flags in actions.items() if name in listed for flag in flags]

    def weight_of(self, label: Label) -> str | None:
        """Column with the weights of the rows for a task, or None."""
        return label.row_weight or self.row_weight

    @property
    def biased_tasks(self) -> tuple[str, ...]:
        """Tasks to whose logits a place adds a bias: those of what happens if the item is seen at all."""
        return tuple(label.name for label in self.labels if label.is_flag and label.given is None)

    @property
    def sampled(self) -> Label | None:
        """The label of whose negatives a share is kept for training, or None."""
        return next((label for label in self.labels if label.keep_negatives < 1), None)

    def is_reweighted(self, label: Label) -> bool:
        """Whether a kept negative of `sampled` stands for those that were not in the loss of a label."""
        return self.sampled is not None and label.name != self.sampled.name and label.given != self.sampled.name

    def weights_of(self, label: Label, columns: Mapping[str, Any]) -> Any | None:
        """What training rows count for a task, for arrays beside those of `columns`; None if all count once.

        Args:
            label: of the task.
            columns: column -> array; the row weights and `sampled` among them.
        """
        weight = self.weight_of(label)
        found = None if weight is None else columns[weight]
        if self.sampled is None or label.given == self.sampled.name:
            return found
        stands_for = self.sampled.stands_for((columns[self.sampled.name] > 0) * 1.0)
        return stands_for if found is None else found * stands_for

    @property
    def mature(self) -> tuple[str, ...]:
        """Columns of the written rows that say whether labels are known for sure."""
        return tuple(label.mature for label in self.labels if label.mature is not None)

    @property
    def row_weights(self) -> tuple[str, ...]:
        """Every column of weights."""
        return tuple(dict.fromkeys(column for label in self.labels if (column := self.weight_of(label)) is not None))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def logits(self) -> tuple[str, ...]:
        """Names of the logits that heads give, task by task: `Label.logits`."""
        return tuple(name for label in self.labels for name in label.logits)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what a model answers, task by task: `Label.outputs`."""
        return tuple(name for label in self.labels for name in label.outputs)

    @property
    def tasks_by_kind(self) -> dict[str, tuple[str, ...]]:
        """Kind -> the tasks of that kind."""
        kinds = dict.fromkeys(label.kind for label in self.labels)
        return {kind: tuple(label.name for label in self.labels if label.kind == kind) for kind in kinds}

    def history_fields(self, history: History) -> Iterator[tuple[str, EventField]]:
        """(column, feature) of each field of a history, for instance ("global_video_id", Categorical("video_id"))."""
        fields = {feature.name: feature for feature in self.features if is_of_event(feature)}
        for field in history.of:
            yield history.column(field), fields[field]

    def widened(self, factor: float) -> FeatureSpec:
        """The same columns with every embedding `factor` times as wide, rounded, at least 1."""

        def wider(declared: Any) -> Any:
            return declared.model_copy(update={"dim": max(1, round(factor * declared.dim))})

        as_they_are = History | Match | Vector | VectorTable
        # As wide as the vectors that they begin with.
        given = set(self.initial_tables)
        features = tuple(f if isinstance(f, as_they_are) or f.owner in given else wider(f) for f in self.features)
        return self.model_copy(update={"scenario": wider(self.scenario), "features": features})

    def columns_of(self, feature: RowFeature | EventField) -> tuple[str, ...]:
        """Every column that holds values of a feature: its own, if it is of the row, then one per history with it."""
        own = (feature.name,) if is_of_row(feature) else ()
        return (*own, *(history.column(feature.name) for history in self.histories if feature.name in history.of))

    @classmethod
    def from_json(cls, text: str) -> FeatureSpec:
        return cls.model_validate_json(text)

    def to_json(self) -> str:
        return self.model_dump_json()


def _columns(feature: Feature) -> list[tuple[str, str]]:
    if isinstance(feature, History):
        return [(feature.column(field), f"history `{feature.name}`") for field in feature.of]
    found = [(feature.name, f"feature `{feature.name}`")] if is_read(feature) else []
    if isinstance(feature, MultiCategorical) and feature.weights is not None and feature.group != "event":
        found.append((feature.weights, f"weights of `{feature.name}`"))
    return found
