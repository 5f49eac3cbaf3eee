"""What the name of a column says: words that people give to users, items, outcomes and surfaces."""

from __future__ import annotations

import re


def _listed(*texts: str) -> list[str]:
    return " ".join(texts).split()


# The surest words of a role come first.
USER = _listed(
    "user uid customer member visitor reviewer viewer reader buyer shopper player subscriber listener",
    "account client person consumer passenger patient student profile device cookie household session",
)
ITEM = _listed(
    "item video movie film product sku asin article news goods good ad advert creative song track book game app",
    "listing hotel restaurant business venue poi job post photo image doc document content offer deal recipe course",
    "episode show clip candidate music merchant shop place title story podcast pin coupon iid vid pid aid",
)
REQUEST = _listed("request req search query slate serp list impression pageview exposure trace")
# What may follow the word of a key.
KEY_ENDINGS = frozenset(_listed("id ids key no nr num number code index idx hash uuid guid pk"))
# Outcomes that are wanted, the usual main one first.
POSITIVE = _listed(
    "click clicked clicks clk ctr label target converted conversion convert purchase purchased bought buy order",
    "ordered reordered booked booking book cart addtocart atc like liked favorite favourite fav saved save follow",
    "followed subscribe subscribed share shared forward comment commented reply install installed download downloaded",
    "view viewed watched watch played play long finish finished complete completed effective engaged engagement",
    "response accept accepted apply applied visit visited rated enter entered y",
)
NEGATIVE = frozenset(_listed("hate dislike disliked skip skipped report reported hide hidden unlike unfollow reject"))
# Numbers that are known only after the impression.
AFTER = frozenset(
    _listed(
        "dwell watch watched play played stay duration elapsed spent read reading scroll listen completion progress",
        "revenue paid payment profit gmv amount feedback response reward leave exit end",
    )
)
RATING = frozenset(_listed("rating ratings stars star score grade overall preference"))
SCENARIO = _listed(
    "tab scenario scene surface page placement slot module feed channel section screen widget site domain campaign",
    "source platform app market country region locale device os policy",
)
# Of the logging policy, not of the row.
POLICY = frozenset(_listed("propensity pscore prob probability weight ips importance"))
ATTRIBUTE = frozenset(_listed("weekend weekday holiday new first premium vip rand random test live"))
COUNTED = frozenset(_listed("cnt count counts num number rate ratio avg mean sum total ctr cvr"))
SERIAL = frozenset(
    _listed("zip postal code type category class cluster group segment bucket level onehot feat feature")
)


def words(name: str) -> tuple[str, ...]:
    """The words of a name in lower case.

    >>> words("movieId"), words("is_click"), words("user_id:token")
    (('movie', 'id'), ('is', 'click'), ('user', 'id'))
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.partition(":")[0])
    return tuple(part for part in re.split(r"[^a-z0-9]+", name.lower()) if part)


def singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def key_of(name: str, role: list[str]) -> float:
    """How surely a name is the key of a role: 1 for the first words of the role, 0 if it is not its key.

    >>> key_of("user_id", USER), key_of("user_age", USER), key_of("movieId", ITEM) > 0.9
    (1.0, 0.0, True)
    """
    parts = [singular(part) for part in words(name)]
    # userid, itemid
    if len(parts) == 1 and parts[0].endswith("id") and parts[0][:-2] in role:
        parts = [parts[0][:-2], "id"]
    found = [part for part in parts if part in role]
    if len(found) != 1 or any(part not in KEY_ENDINGS for part in parts if part not in role):
        return 0.0
    return round(1.0 - 0.4 * role.index(found[0]) / len(role), 3)


def cleaned(name: str) -> str:
    """A name that a declaration may use: letters, digits and underscores, a letter first.

    >>> cleaned("user_id:token"), cleaned("Price (EUR)"), cleaned("2nd")
    ('user_id', 'Price_EUR', 'c_2nd')
    """
    if re.fullmatch(r".+:(token|float|int|str)(_seq)?", name):
        name = name.rpartition(":")[0]
    name = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "column"
    return name if name[0].isalpha() else f"c_{name}"
