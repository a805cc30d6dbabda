"""Reads an uploaded CSV file, and says in words for the user what is wrong with it."""

import csv
from contextlib import contextmanager
from itertools import islice

from dramatiq_progress import UserFacingError

DELIMITERS = ",;\t"
DELIMITER_SAMPLE_CHARACTERS = 64 * 1024


class CsvFile:
    """A CSV file on disk: a header line, then rows of as many columns. Commas, semicolons or tabs; UTF-8.

    Parameters:
      path: Where the file is.

    Raises:
      UserFacingError: from `header` and `rows`, when the file is not such a file.
    """

    def __init__(self, path):
        self.path = path

    def header(self):
        """The names of the columns, as a list of strings."""
        with self._reader() as reader:
            return self._header(reader)

    def rows(self):
        """Yield ``(line, values)`` for each row; `line` is the number of the line where the row ends."""
        with self._reader() as reader:
            columns = len(self._header(reader))
            found = False
            for values in reader:
                if not values:  # A blank line, as many files have at their end.
                    continue
                if len(values) != columns:
                    has = f"{len(values):,} column{'' if len(values) == 1 else 's'}"
                    raise UserFacingError(
                        f"Line {reader.line_num:,} has {has}, but the header has {columns:,}. Nothing was imported."
                    )
                found = True
                yield reader.line_num, values
            if not found:
                raise UserFacingError("The file has a header but no rows, so there is nothing to import.")

    @contextmanager
    def _reader(self):
        # utf-8-sig: what Excel saves as "CSV UTF-8" begins with a byte order mark.
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            try:
                sample = file.read(DELIMITER_SAMPLE_CHARACTERS)
                file.seek(0)
                yield csv.reader(_refuse_binary(file), delimiter=_delimiter(sample), strict=True)
            except UnicodeDecodeError as error:
                raise UserFacingError(
                    "This file is not UTF-8 text. If it is a spreadsheet, save it as “CSV UTF-8” first."
                ) from error
            except csv.Error as error:
                raise UserFacingError(f"This file cannot be read as CSV ({error}). Nothing was imported.") from error

    @staticmethod
    def _header(reader):
        header = next((values for values in reader if values), None)
        if header is None:
            raise UserFacingError("The file is empty. Nothing was imported.")
        if len(header) < 2:
            raise UserFacingError(
                "This does not look like CSV: there are no commas, semicolons or tabs in its first line."
            )
        return header


def batches(items, size):
    """Yield lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _delimiter(sample):
    """The delimiter that the first line with text uses most; a comma where it uses none."""
    first_line = next((line for line in sample.splitlines() if line.strip()), "")
    return max(DELIMITERS, key=first_line.count)


def _refuse_binary(lines):
    for line in lines:
        if "\0" in line:
            raise UserFacingError("This is not a text file. Please choose a CSV file.")
        yield line
