from .file_formats import Batch as Batch
from .file_formats import column_names as column_names
from .file_formats import read_file as read_file
from .file_formats import row_groups as row_groups
from .file_formats import uncompressed_size as uncompressed_size
from .values import RawColumn as RawColumn
from .values import convert as convert
