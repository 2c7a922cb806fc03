"""Every error a user of tessera can see.

TesseraError
  ParamsError      params.yaml or a table of experiments has a key nobody reads, lacks one, or a value does not fit
  SourceError      a source outside the project is missing, unreadable, or too dirty to use
  TableError       a file that a stage reads or writes is missing or not as its schema says
  DataError        the data cannot carry what was asked of them (nothing left, too few items, no free ID)
  CheckpointError  weights do not belong to the data or the parameters beside them
"""


class TesseraError(Exception):
    """Base class: catch this to catch anything tessera raises on purpose."""


class ParamsError(TesseraError):
    """params.yaml, or a table of experiments, and the code that reads it disagree."""


class SourceError(TesseraError):
    """Something outside the project cannot be had, read, or trusted."""


class TableError(TesseraError):
    """A file and its declared schema disagree, or the file is not there."""


class DataError(TesseraError):
    """The data cannot carry what the parameters ask of them."""


class CheckpointError(TesseraError):
    """A checkpoint and what it is used with do not belong together."""
