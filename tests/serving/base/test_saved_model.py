"""A SavedModel with damaged files is refused by name."""

from __future__ import annotations

import pytest

from mixrank.serving.base import load_saved_model


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("saved_model.pb", b"no graph", "cannot be loaded, its files are damaged"),
        ("saved_model.pb", None, "is not a SavedModel: it holds no saved_model.pb"),
        ("variables/variables.data-00000-of-00001", b"x", "cannot be loaded, its files are damaged"),
        ("variables/variables.index", b"x" * 100, "cannot be loaded, its files are damaged"),
    ],
)
def test_a_damaged_model_is_refused_by_name(save_tiny, tmp_path, file, content, message):
    folder = save_tiny(tmp_path, 1)
    (folder / file).unlink()
    if content is None:
        (folder / file).mkdir()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{folder} {message}"):
        load_saved_model(folder)


def test_a_whole_model_is_loaded(save_tiny, tmp_path):
    assert set(load_saved_model(save_tiny(tmp_path, 1)).signatures) >= {"serving_default", "score_rows"}
