"""Updates dramatiq_progress/locale after a change of dramatiq_progress/web/texts.py: ``make messages``.

Adds new texts to each .po with an empty translation, removes texts that no longer exist, and compiles each .mo.
"""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from dramatiq_progress.web.texts import CANCEL_TEXTS, CONTEXT, PAGE_TEXTS, PARTS_TEXTS, RESULTS, SCHEDULE_TEXTS, TEXTS

LOCALE = Path(__file__).resolve().parent.parent / "dramatiq_progress" / "locale"

DATE = datetime(2026, 1, 1, tzinfo=UTC)

#: Replaces Babel's header, which contains dates and names.
HEADER = """\
# The texts are in dramatiq_progress/web/texts.py. Run "make messages" after a change there or here.
msgid ""
msgstr ""
"Language: {language}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""


def template() -> Catalog:
    """Return a catalog of all texts. The name of a text is its comment."""
    catalog = Catalog()
    for name, text in (TEXTS | CANCEL_TEXTS | PARTS_TEXTS | SCHEDULE_TEXTS).items():
        catalog.add(text, context=CONTEXT, auto_comments=[name])
    for text in (*RESULTS, *PAGE_TEXTS):
        catalog.add(text, context=CONTEXT)
    return catalog


def read(path: Path) -> Catalog:
    """Read the translations of one language."""
    with path.open("rb") as file:
        return read_po(file, locale=path.parent.parent.name)


def write(path: Path, catalog: Catalog) -> None:
    """Write a .po file and its .mo file."""
    out = BytesIO()
    write_po(out, catalog, width=120, omit_header=True)
    header = HEADER.format(language=path.parent.parent.name)
    path.write_bytes(header.encode() + out.getvalue())
    # Without fixed dates the .mo would differ each time.
    catalog.creation_date = catalog.revision_date = DATE
    with path.with_suffix(".mo").open("wb") as file:
        write_mo(file, catalog)


def main() -> None:
    """Update all languages, and print the missing translations."""
    for path in sorted(LOCALE.glob("*/LC_MESSAGES/django.po")):
        catalog = read(path)
        catalog.update(template(), no_fuzzy_matching=True, update_header_comment=False)
        catalog.obsolete.clear()
        write(path, catalog)
        missing = [message.id for message in catalog if message.id and not message.string]
        print(f"{path.parent.parent.name}: {len(catalog)} texts, without a translation: {missing or 'none'}")


if __name__ == "__main__":
    main()
