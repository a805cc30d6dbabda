"""Reads uploaded CSV files. Errors have messages for the user."""

import csv
from contextlib import contextmanager
from itertools import islice

from dramatiq_progress import UserFacingError

DELIMITERS = ",;\t"
DELIMITER_SAMPLE_CHARACTERS = 64 * 1024


class CsvFile:
    """A CSV file on disk: a header line and rows with the same number of columns, in UTF-8.

    The delimiter is a comma, a semicolon or a tab.

    Parameters:
      path: Path of the file.

    Raises:
      UserFacingError: By `header` and `rows`, if the file is invalid.
    """

    def __init__(self, path):
        self.path = path

    def header(self):
        """Return the column names as a list of strings."""
        with self._reader() as reader:
            return self._header(reader)

    def rows(self):
        """Yield ``(line, values)`` for each row. `line` is the number of its last line in the file."""
        with self._reader() as reader:
            columns = len(self._header(reader))
            found = False
            for values in reader:
                if not values:  # Many files end with a blank line.
                    continue
                if len(values) != columns:
                    has = f"{len(values):,} column{'' if len(values) == 1 else 's'}"
                    raise UserFacingError(
                        f"Line {reader.line_num:,} has {has}, but the header has {columns:,}. Nothing was imported."
                    )
                found = True
                yield reader.line_num, values
            if not found:
                raise UserFacingError("The file has a header but no rows. Nothing was imported.")

    @contextmanager
    def _reader(self):
        # utf-8-sig: Excel writes a byte order mark at the start of "CSV UTF-8".
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            try:
                sample = file.read(DELIMITER_SAMPLE_CHARACTERS)
                file.seek(0)
                yield csv.reader(_refuse_binary(file), delimiter=_delimiter(sample), strict=True)
            except UnicodeDecodeError as error:
                raise UserFacingError(
                    "This file isn't UTF-8 text. If it is a spreadsheet, save it as “CSV UTF-8” first."
                ) from error
            except csv.Error as error:
                raise UserFacingError(f"This file can't be read as CSV ({error}). Nothing was imported.") from error

    @staticmethod
    def _header(reader):
        header = next((values for values in reader if values), None)
        if header is None:
            raise UserFacingError("The file is empty. Nothing was imported.")
        if len(header) < 2:
            raise UserFacingError("This doesn't look like CSV: its first line has no commas, semicolons or tabs.")
        return header


def batches(items, size):
    """Yield lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _delimiter(sample):
    """Return the most frequent delimiter of the first line with text, or a comma if it has none."""
    first_line = next((line for line in sample.splitlines() if line.strip()), "")
    return max(DELIMITERS, key=first_line.count)


def _refuse_binary(lines):
    for line in lines:
        if "\0" in line:
            raise UserFacingError("This isn't a text file. Choose a CSV file.")
        yield line
