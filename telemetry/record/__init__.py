"""The record of ticks: its format, the files that hold it, and readers.

`read` takes it apart into episodes and says what is missing or broken; `read_log` and `read_entries` are for deciding it
again, tick by tick, and stop at the first line that cannot be read.
"""

from .defects import Defect, DefectKind
from .episode import Episode
from .episodes import Record, episodes_of
from .lines import (
    HEAD,
    KIND,
    RECORD_VERSION,
    DecisionLogError,
    OtherVersion,
    entry_of,
    line_of,
    record_of,
    sitting_of,
    sitting_text,
)
from .reading import read, read_stream
from .segments import Keeping
from .strict import read_entries, read_log
from .ticks import Chosen, Reach, Sat, Since, Sitting, TickRecord, nothing_since

__all__ = [
    "HEAD",
    "KIND",
    "RECORD_VERSION",
    "Chosen",
    "DecisionLogError",
    "Defect",
    "DefectKind",
    "Episode",
    "Keeping",
    "OtherVersion",
    "Reach",
    "Record",
    "Sat",
    "Since",
    "Sitting",
    "TickRecord",
    "entry_of",
    "episodes_of",
    "line_of",
    "nothing_since",
    "read",
    "read_entries",
    "read_log",
    "read_stream",
    "record_of",
    "sitting_of",
    "sitting_text",
]
