"""The rows of a day by a Transform graph that is already there: nothing is analyzed, no pipeline is started.

    examples/Split-NAME/*.gz  ->  out/Split-NAME/transformed_examples-*.gz

The Transform component reads all rows twice, for vocabularies and moments, and once more to apply them. A day that a
trained model goes on with must keep those of the model, so that its rows are read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform.saved.saved_transform_io_v2 import SavedModelLoader

from mixrank.schemas import FeatureSpec
from mixrank.schemas.files import write_folder_atomically
from mixrank.schemas.tfmd import parsing_spec
from mixrank.serving.base import untuned

# Rows that go through the graph at once.
BATCH = 1024


def transform_day(examples: Path, graph: Path, out: Path, spec: FeatureSpec) -> None:
    """Applies a Transform graph to examples and writes the rows as the Transform component does.

    Integers and text are those of the component to the bit. A float may differ in its last bit: TensorFlow computes the
    rows at the end of a batch by other instructions than the rest, and its batches are not those of the component.

    Args:
        examples: folder of `Split-NAME/` with gzip-compressed TFRecords of raw tf.Examples, such as `write_day` leaves.
        graph: folder of the Transform graph, output `transform_graph` of the component.
        out: gets for every file of `examples` one of as many rows in the same order; whole or not at all. It must not
            exist, or be empty.
        spec: columns of an example, those that the graph was made for.

    Raises:
        ValueError: if there are no examples, a file is damaged or holds no examples of these columns, or `out`
            is not empty.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"`out` must be empty, {out} is not")
    splits = {folder: sorted(folder.glob("*.gz")) for folder in sorted(examples.glob("Split-*"))}
    if not any(splits.values()):
        raise ValueError(f"no examples match {examples}/Split-*/*.gz")
    transformed = tft.TFTransformOutput(str(graph))
    encoded = _encoder(transformed)
    parse = parsing_spec(spec, labels=True)

    def write(temporary: Path) -> None:
        for folder, files in splits.items():
            (temporary / folder.name).mkdir()
            for number, path in enumerate(files):
                name = f"transformed_examples-{number:05d}-of-{len(files):05d}.gz"
                _write(path, temporary / folder.name / name, parse, encoded)

    write_folder_atomically(out, write)


def _encoder(transformed: tft.TFTransformOutput) -> Callable[[Any], list[bytes]]:
    """Parsed raw columns of a batch -> the transformed rows as serialized tf.Examples."""
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder
    from tfx_bsl.tfxio.tensor_to_arrow import TensorsToRecordBatchConverter

    columns = transformed.transformed_feature_spec()
    loader = SavedModelLoader(transformed.transform_savedmodel_dir)
    # What the Transform component encodes with.
    converter = TensorsToRecordBatchConverter(
        {name: tf.TensorSpec([None, *column.shape], column.dtype) for name, column in columns.items()}
    )
    encoder = RecordBatchToExamplesEncoder(transformed.transformed_metadata.schema)

    @tf.function(autograph=False, reduce_retracing=True)
    def apply(raw: Any) -> Any:
        found = loader.apply_transform_model(raw)
        return {name: found[name] for name in columns}

    return lambda raw: encoder.encode(converter.convert(apply(raw)))


def parsed(source: Path, columns: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Batches of the examples of a file, in order.

    Args:
        source: gzip-compressed TFRecord.
        columns: which columns, as of `parsing_spec`.

    Raises:
        ValueError: naming the file, if it is damaged or holds no examples of these columns.
    """
    records = tf.data.TFRecordDataset(str(source), compression_type="GZIP").batch(BATCH)
    # The next batch is decompressed and parsed while one is in use.
    batches = records.map(lambda batch: tf.io.parse_example(batch, columns), num_parallel_calls=1).prefetch(2)
    try:
        yield from untuned(batches)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"{source} is damaged, or holds no examples of these columns: {error.message.splitlines()[0]}"
        ) from error


def _write(source: Path, target: Path, columns: Mapping[str, Any], encoded: Callable[[Any], list[bytes]]) -> None:
    with tf.io.TFRecordWriter(str(target), "GZIP") as writer:
        for batch in parsed(source, columns):
            for row in encoded(batch):
                writer.write(row)
