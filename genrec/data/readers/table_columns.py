"""Which columns of your own tables are what: by setting, else by their usual names."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from genrec.data.files.table_files import TableFile
from genrec.errors import ConfigError, DataError, did_you_mean

__all__ = ["ChosenColumns", "MissingColumns", "TableColumns", "choose_columns", "usual_column"]

#: Usual names of each role in English, German, French, Spanish, Italian, Portuguese, Dutch and
#: Polish: in lower case, without accents and other signs, the surest first.
_NAMES = {
    "user": "userid user uid customerid customer visitorid reviewerid memberid sessionid session "
    "kundennummer kundennr kundenid kunde kaufer nutzerid nutzer benutzerid benutzer "
    "idclient clientid numeroclient client idutilisateur utilisateur "
    "idcliente clienteid cliente idusuario usuario codicecliente idutente utente "
    "utilizador idutilizador codigocliente klantnummer klantid klant gebruikersid gebruiker "
    "idklienta numerklienta klient iduzytkownika uzytkownik",
    "item": "itemid item iid productid product asin parentasin movieid articleid sku trackid "
    "newsid artikelnummer artikelnr artikelid artikel produktnummer produktid produkt "
    "idproduit produit idarticle article referenceproduit codeproduit "
    "idproducto producto idarticulo articulo codigoproducto "
    "idprodotto prodotto idarticolo articolo codiceprodotto codicearticolo "
    "idproduto produto codigoproduto artigo artikelcode productnummer productcode "
    "idproduktu produktu numerproduktu kodproduktu idtowaru",
    "time": "timestamp time datetime date ts unixreviewtime eventtime createdat orderdate "
    "purchasedate purchasedat zeitstempel zeitpunkt bestelldatum kaufdatum datum "
    "horodatage datecommande datedecommande dateachat datedachat "
    "marcadetiempo fechahora fechacompra fechapedido fecha dataora dataordine dataacquisto "
    "datacompra datadacompra datapedido datadopedido datahora besteldatum aankoopdatum tijdstip "
    "datazamowienia datazakupu data",
    "rating": "rating ratings stars score overall bewertung bewertungen sterne note etoiles "
    "evaluation calificacion valoracion puntuacion valutazione voto punteggio "
    "avaliacao nota classificacao pontuacao beoordeling waardering cijfer ocena",
    "title": "title name itemname productname producttitle headline itemtitle titel bezeichnung "
    "artikelbezeichnung artikelname produktname produktbezeichnung titre nom nomproduit libelle "
    "designation titulo nombre nombreproducto titolo nome nomeprodotto nomeproduto "
    "productnaam artikelnaam omschrijving naam tytul nazwa nazwaproduktu",
    "text": "brand store manufacturer author artist publisher category categories genre genres "
    "tags keywords type description summary text body content about features "
    "marke hersteller autor verlag kategorie kategorien beschreibung "
    "marque auteur editeur categorie marca categoria editorial descripcion "
    "autore editore descrizione "
    "descricao autor fabricante beschrijving merk uitgever schrijver opis kategoria marka",
}


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Names of the columns; what is None is guessed, and the data card says how.

    Attributes:
        user: User of an interaction.
        item: Item of an interaction.
        time: Time of an interaction; ``""`` reads none, and the order of the file counts.
        rating: Rating of an interaction; ``""`` reads none.
        item_key: Id of an item in the items table.
        title: What to show of an item.
        text: Columns of the items to make text of, in this order.
        vector: Column of the items with a vector.
        time_format: Format of text times for ``strptime``.
        time_unit: Unit of number times: ``s``, ``ms``, ``us`` or ``ns``.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    item_key: str | None = None
    title: str | None = None
    text: tuple[str, ...] = ()
    vector: str | None = None
    time_format: str | None = None
    time_unit: str | None = None


class MissingColumns(DataError):
    """Columns are needed and could not be guessed.

    Args:
        message: Says all of it.
        question: Which, and what the tables have.
        options: Words of a command line that name them.
        note: What else is to be known.
    """

    # Made of its message alone too, as when it is sent to another process.
    def __init__(
        self, message: str, *, question: str = "", options: str = "", note: str = ""
    ) -> None:
        super().__init__(message)
        self.question, self.options, self.note = question, options, note


@dataclass
class ChosenColumns:
    """The column of each role, and the columns of the items that text is made of.

    Attributes:
        names: Column by role; a role that no column has is left out.
        texts: Columns to make text of.
        guessed: Roles that were guessed.
    """

    names: dict[str, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    guessed: set[str] = field(default_factory=set)

    def for_card(self) -> dict[str, str]:
        """Say which column has which role, and which of them was guessed."""
        named = self.names | ({"text": ", ".join(self.texts)} if self.texts else {})
        return {
            role: name + (" (guessed)" if role in self.guessed else "")
            for role, name in named.items()
        }


def choose_columns(
    columns: TableColumns,
    items: TableFile,
    log: TableFile | None,
    kept: TableColumns | None = None,
) -> ChosenColumns:
    """Find the column of every role.

    Args:
        columns: What the user named.
        items: The items.
        log: The interactions; None for a catalogue alone.
        kept: What the user named for an earlier version of the tables; counts where it is there.

    Returns:
        The choice; user, item and item key are in it.

    Raises:
        ConfigError: If a column that the user named is not there.
        DataError: If a column that is needed cannot be guessed: all of them at once, a column
            of dates that nobody said to be the time included.
    """
    chosen = ChosenColumns()
    tables = {"item_key": items}
    if log is not None:
        tables = dict.fromkeys(("user", "item", "time", "rating"), log) | tables
    known = {role: _still(role, kept, table) for role, table in tables.items()}
    for role, table in tables.items():
        setting = getattr(columns, role)
        _choose(role, known[role] if setting is None else setting, table, chosen)
    if log is not None:
        _choose_shared(columns, items, log, chosen)
    needed = {role: table for role, table in tables.items() if role not in ("time", "rating")}
    missing = {role: table for role, table in needed.items() if role not in chosen.names}
    # A column of dates is never left out without a question: order and split hang on it.
    ask = log is not None and columns.time is None and known.get("time") is None
    ask = ask and "time" not in chosen.names
    if log is not None and ask and any(map(log.is_moment, _left(log, chosen))):
        missing["time"] = log
    if missing:
        raise _question(missing, items, log, chosen)
    vector = columns.vector or _still("vector", kept, items)
    if vector is not None:
        chosen.names["vector"] = _known(vector, items, "vector")
    title = columns.title or _still("title", kept, items)
    texts = columns.text or tuple(n for n in (kept.text if kept else ()) if n in items.names)
    _choose_texts(title, texts, items, chosen)
    return chosen


def _still(role: str, kept: TableColumns | None, table: TableFile) -> str | None:
    """Give the name that an earlier version of a table had for a role, if it is there."""
    name: str | None = None if kept is None else getattr(kept, role)
    return name if name == "" or name in table.names else None


def _choose_shared(
    columns: TableColumns, items: TableFile, log: TableFile, chosen: ChosenColumns
) -> None:
    """Take the only column that both tables have for the item, where nothing else is known."""
    open_roles = [role for role in ("item", "item_key") if role not in chosen.names]
    left = _left(log, chosen) + [chosen.names[r] for r in ("item",) if r in chosen.names]
    both = [name for name in left if name in items.names and not log.is_moment(name, counted=False)]
    if open_roles and len(both) == 1 and both[0] not in (columns.title, *columns.text):
        for role in open_roles:
            chosen.names[role] = both[0]
            chosen.guessed.add(role)


def _choose(role: str, setting: str | None, table: TableFile, chosen: ChosenColumns) -> None:
    """Find the column of a role by setting, else by a usual name."""
    if setting:
        chosen.names[role] = _known(setting, table, role)
        return
    found = None if setting == "" else usual_column(role, table)
    if found is not None:
        chosen.names[role] = found
        chosen.guessed.add(role)


def usual_column(role: str, table: TableFile) -> str | None:
    """Find the column of a role, ``user``, ``item``, ``time`` and so on, by its usual names."""
    usual = _NAMES["item" if role == "item_key" else role].split()
    if role == "item_key":
        usual += ["id", "key"]
    plain = {_plain(name): name for name in reversed(table.names)}
    found = next((plain[name] for name in usual if name in plain), None)
    # French and German marks are remarks in English, and Italian dates are data.
    if found is not None and role == "rating" and not table.is_number(found):
        return None
    dateless = role == "time" and found is not None and _plain(found) == "data"
    return None if dateless and found is not None and not table.is_moment(found) else found


def _choose_texts(
    named_title: str | None, named_texts: Sequence[str], items: TableFile, chosen: ChosenColumns
) -> None:
    """Choose the columns to make text of, and the one to show."""
    key, vector = chosen.names["item_key"], chosen.names.get("vector")
    if named_title is not None:
        chosen.names["title"] = _known(named_title, items, "title")
    else:
        usual = {_plain(name): name for name in reversed(items.names) if name != key}
        title = next((usual[name] for name in _NAMES["title"].split() if name in usual), None)
        if title is not None:
            chosen.names["title"] = title
            chosen.guessed.add("title")
    chosen.texts = [_known(name, items, "text") for name in named_texts]
    if not chosen.texts:
        # A template could not name a column with these signs.
        rest = [n for n in items.names if n not in (key, vector) and not set(n) & set(";{}")]
        words = f"{_NAMES['title']} {_NAMES['text']}".split()
        names = [name for name in rest if _plain(name) in words]
        names = names or [name for name in rest if _is_text(items.sample(name))]
        if (shown := chosen.names.get("title")) is not None:
            names = [shown, *(name for name in names if name != shown)]
        chosen.texts = names
        chosen.guessed.add("text")
    if not chosen.texts and vector is None:
        raise DataError(
            f"items must have text or a vector, got {', '.join(items.names)} in {items.path}; "
            "name columns with --text-column or --vector-column"
        )


def _question(
    missing: dict[str, TableFile], items: TableFile, log: TableFile | None, chosen: ChosenColumns
) -> MissingColumns:
    """Ask for all missing columns, with the headers and a command to change and send."""
    options = []
    free = {table.path: _left(table, chosen) for table in missing.values()}
    for role, table in sorted(missing.items(), key=lambda entry: entry[0] != "time"):
        names = free[table.path]
        dates = [name for name in names if table.is_moment(name)]
        fitting = dates if role == "time" else [name for name in names if name not in dates]
        name = fitting[0] if fitting else "NAME"
        free[table.path] = [other for other in names if other != name]
        options.append(f"--{role.replace('_', '-')}-column {shlex.quote(name)}")
    roles = ", ".join(f"the {role.replace('_', ' ')}" for role in missing)
    headers = "; ".join(
        f"{', '.join(table.names)} in {table.path}" for table in dict.fromkeys(missing.values())
    )
    folder = items.path.parent
    tables = [] if log is None else ["--interactions", log.path.name]
    command = shlex.join(["genrec", "prepare", str(folder), *tables, "--items", items.path.name])
    note = " (--time-column '' if it is not the time)" if "time" in missing else ""
    command += f" --out {shlex.quote(f'data/processed/{folder.resolve().name}')}"
    question = f"tables must have a column for {roles}, got {headers}"
    named = " ".join(options)
    message = f"{question}; name them{note}, for example {command} {named}"
    return MissingColumns(message, question=question, options=named, note=note)


def _left(table: TableFile, chosen: ChosenColumns) -> list[str]:
    return [name for name in table.names if name not in chosen.names.values()]


def _known(name: str, table: TableFile, role: str) -> str:
    if name not in table.names:
        raise ConfigError(
            f"{role} column must be one of the table's, got {name!r} for {table.path}; "
            f"{did_you_mean(name, table.names)}"
        )
    return name


def _is_text(values: Sequence[str]) -> bool:
    """Tell text from numbers and flags: most values hold a word."""
    words = sum(bool(re.search(r"[^\W\d_]{2,}", value)) for value in values)
    return bool(values) and 2 * words > len(values)


def _plain(name: str) -> str:
    """Write a name in lower case without accents and other signs: ``Käufer-Nr`` is kaufernr."""
    parts = unicodedata.normalize("NFKD", name.casefold())
    return re.sub(r"[^a-z0-9]", "", parts)
