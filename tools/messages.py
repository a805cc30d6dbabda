"""Brings dramatiq_progress/locale up to date with dramatiq_progress/texts.py: ``make messages``.

New texts are added to each .po with an empty translation, texts that are gone are dropped, and each .mo is compiled.
"""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from dramatiq_progress.texts import CANCEL_TEXTS, CONTEXT, PAGE_TEXTS, RESULTS, TEXTS

LOCALE = Path(__file__).resolve().parent.parent / "dramatiq_progress" / "locale"

DATE = datetime(2026, 1, 1, tzinfo=UTC)

#: In place of Babel's, which has dates and people in it.
HEADER = """\
# The texts stand in dramatiq_progress/texts.py. After a change there or here: make messages
msgid ""
msgstr ""
"Language: {language}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""


def template() -> Catalog:
    """Every text that can be translated, with the names that it goes by."""
    made = Catalog()
    for name, text in (TEXTS | CANCEL_TEXTS).items():
        made.add(text, context=CONTEXT, auto_comments=[name])
    for text in (*RESULTS, *PAGE_TEXTS):
        made.add(text, context=CONTEXT)
    return made


def read(path: Path) -> Catalog:
    """The translations of one language."""
    with path.open("rb") as file:
        return read_po(file, locale=path.parent.parent.name)


def write(path: Path, catalog: Catalog) -> None:
    """Write a .po and its .mo."""
    out = BytesIO()
    write_po(out, catalog, width=120, omit_header=True)
    header = HEADER.format(language=path.parent.parent.name)
    path.write_bytes(header.encode() + out.getvalue())
    # Else the .mo would differ each time.
    catalog.creation_date = catalog.revision_date = DATE
    with path.with_suffix(".mo").open("wb") as file:
        write_mo(file, catalog)


def main() -> None:
    """Write what has changed."""
    for path in sorted(LOCALE.glob("*/LC_MESSAGES/django.po")):
        catalog = read(path)
        catalog.update(template(), no_fuzzy_matching=True, update_header_comment=False)
        catalog.obsolete.clear()
        write(path, catalog)
        missing = [message.id for message in catalog if message.id and not message.string]
        print(f"{path.parent.parent.name}: {len(catalog)} texts, without a translation: {missing or 'none'}")


if __name__ == "__main__":
    main()
