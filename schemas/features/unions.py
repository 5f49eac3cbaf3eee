"""All types of features, and what a fold asks of them."""

from __future__ import annotations

from typing import TypeGuard, assert_never

from mixrank.schemas.features.computed_features import Cross, Expression, Match
from mixrank.schemas.features.event_features import Action, History, TimeGap
from mixrank.schemas.features.row_features import Categorical, MultiCategorical, Numeric, Vector
from mixrank.schemas.features.side_features import Lookup, NumericLookup, VectorTable

# What is looked up in a file; raw categories; what has ids from a vocabulary or a hash; a raw column of the row; what a
# model reads of a row besides histories; one value per event of a history; all there are. A fold takes one of these
# unions apart and ends with `assert_never`, so that a new type is an error wherever it is forgotten.
AnyFromFile = Lookup | NumericLookup | VectorTable
AnyCategorical = Categorical | MultiCategorical
LookedUp = AnyCategorical | Cross | Lookup
RowFeature = AnyCategorical | Numeric | Vector
ModelFeature = RowFeature | Match | Cross | Expression | AnyFromFile
EventField = RowFeature | Action | TimeGap
Feature = ModelFeature | Action | TimeGap | History


def is_of_row(feature: Feature) -> TypeGuard[RowFeature]:
    """Whether a feature is a raw column of the row."""
    match feature:
        case Categorical() | MultiCategorical() | Numeric() | Vector():
            return feature.group != "event"
        case Match() | Cross() | Expression() | Lookup() | NumericLookup() | VectorTable():
            return False
        case Action() | TimeGap() | History():
            return False
        case _:
            assert_never(feature)


def is_read(feature: Feature) -> TypeGuard[ModelFeature]:
    """Whether a model reads the feature as a vector of the row."""
    return is_of_row(feature) or isinstance(feature, Match | Cross | Expression | AnyFromFile)


def is_of_event(feature: Feature) -> TypeGuard[EventField]:
    """Whether a history may list the feature."""
    match feature:
        case Categorical() | MultiCategorical() | Numeric() | Vector():
            return feature.group in ("item", "event")
        case Action() | TimeGap():
            return True
        case Match() | Cross() | Expression() | History():
            return False
        case Lookup() | NumericLookup() | VectorTable():
            return False
        case _:
            assert_never(feature)
