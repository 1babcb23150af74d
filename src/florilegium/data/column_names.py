"""What a column's name says about it, in several languages, without regard to case, accents, blanks and hyphens.

    "Quote Text", "quote_text", "QuoteText"   ->  words ("quote", "text")   ->  the text
    "Catégories"                              ->  "categories"              ->  the tags
    "quote_id", "uuid", "Created At"          ->  never taken for either

A name that *is* a synonym wins over one that only contains it, and an earlier synonym over a later one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TEXT = _words("""
    quote quotes quotation quotations text texts saying sayings sentence content body phrase proverb aphorism
    maxim statement utterance passage poem poems verse verses lyrics lines joke headline abstract review comment
    tweet message description story paragraph document zitat zitate spruch sprueche spruche sprichwort satz
    inhalt gedicht witz citation citations texte contenu poeme proverbe cita citas frase frases texto contenido
    poema citazione citazioni testo contenuto citacao citacoes conteudo citat citaat tekst cytat цитата цитаты
    текст вірш стих 名言 名句 语录 文本 正文 内容 句子 文 引用 本文 テキスト 格言 인용 명언 텍스트 اقتباس نص قول उद्धरण
    alinti alıntı soz metin ozdeyis atasozu kutipan teks pepatah citater sitat sitater ordsprak citaten citaty
    vyrok aforismus prislovi idezet szoveg mondas kozmondas lainaus teksti sananlasku citate ρητο αποφθεγμα
    κειμενο ציטוט ציטטה טקסט פתגם نقلقول متن جمله คำคม ข้อความ trichdan caunoi vanban danhngon উক্তি বাণী
    लेख कथन सूक्ति 名言警句 诗句 歌词 詩 句 sprichworter aforismo proverbio proverbios sentenza detto ditado
    الاقتباس اقتباسات الاقتباسات النص المقولة مقولة nukuu msemo மேற்கோள்
    title titel titre titulo titolo
""")
TAGS = _words("""
    tags tag taglist category categories topic topics label labels keyword keywords genre genres theme themes
    subject subjects hashtag hashtags class classes mood moods emotion emotions sentiment schlagwort schlagworte
    schlagworter schlagwoerter kategorie kategorien kategoria kategori thema themen stichwort stichworte stichworter etikett
    motscles motcle etiquette etiquettes categorie sujet sujets etiqueta etiquetas categoria categorias tema
    temas palabrasclave argomento argomenti etichetta etichette тег теги метки категория категории тема темы 标签
    標籤 类别 分类 主题 关键词 タグ カテゴリ カテゴリー 分類 태그 분류 وسم وسوم تصنيف تصنيفات टैग
    etiketler etiket kategoriler konu konular tagar taggar taggarna nyckelord amne amnen emneord stikkord
    emne emner tagi temat tematy stitky stitek stitka klicovaslova cimkek cimke temak tunnisteet tunniste aihe
    aiheet avainsanat etichete eticheta categorii ετικετες ετικετα κατηγορια κατηγοριες תגיות תגית קטגוריה נושא
    برچسب برچسبها دسته موضوع แท็ก หมวดหมู่ chude theloai nhan ট্যাগ বিভাগ বিষয় श्रेणी विषय 标记 分類標籤 情感 类型
    trefwoorden categorieen onderwerp onderwerpen slagwoord ключевыеслова ярлыки рубрика теми мітки категорія
    الوسوم الوسم التصنيف التصنيفات الموضوع etiquetes lebo குறிச்சொற்கள் குறிச்சொல் வகை
    type kind
""")
AUTHOR = _words("""
    author authors autor autorin auteur autore autori auteurs writer poet speaker by saidby attribution автор 作者
    著者 作家 저자 مؤلف लेखक yazar författare kirjoittaja συγγραφέας מחבר نویسنده الكاتب المؤلف الكاتبة
    ผู้แต่ง ผู้เขียน tácgiả penulis pengarang szerző forfatter mwandishi লেখক ஆசிரியர் schrijver skribent szerzo
    författaren tekijä pisatel spisovatel писатель 作者名 名人 저자명
""")
# What is in such a column is about the row, and never the row.
NEVER = frozenset(
    _words("""
    id ids uuid guid key index idx no nr number num count url uri link links href src image img date datetime
    time timestamp created updated modified year month day hash sha md5 lang language locale split set length
    len words score rating votes likes upvotes views rank isbn page email phone license version status user
    userid username file filename path offset start end from lat lon latitude longitude unnamed creator reviewer
    commit
""")
)
# Two columns that belong together, in this order: what is asked, and what is answered.
PAIRS = (
    ("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("prompt", "response"),
    ("prompt", "chosen"), ("question", "answer"), ("question", "answers"), ("question", "response"),
    ("query", "response"), ("query", "answer"), ("setup", "punchline"), ("user", "assistant"), ("input", "output"),
    ("source", "target"), ("article", "highlights"), ("document", "summary"), ("frage", "antwort"),
    ("question", "reponse"), ("pregunta", "respuesta"), ("domanda", "risposta"), ("pergunta", "resposta"),
    ("вопрос", "ответ"), ("问题", "答案"), ("質問", "回答"),
)  # fmt: skip

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[^\W_]+")


def words_of(name: str) -> tuple[str, ...]:
    """The words of a column's name, folded: "Quote-Text" and "quoteText" are ("quote", "text")."""
    plain = unicodedata.normalize("NFKD", _CAMEL.sub(" ", name[:200]))
    return tuple(_WORD.findall("".join(c for c in plain if not unicodedata.combining(c)).casefold()))


def folded(name: str) -> str:
    """The name as it is compared: "Quote Text", "quote-text" and "QUOTE_TEXT" are one."""
    return "".join(words_of(name))


def same_name(wanted: str, names: Sequence[str]) -> str | None:
    """The column that is called `wanted`, to the letter or folded."""
    if wanted in names:
        return wanted
    key = folded(wanted)
    return next((name for name in names if folded(name) == key), None) if key else None


def is_never_trained(name: str) -> bool:
    """Whether the name says that this is a number, a date, an address or a mark of the row."""
    words = words_of(name)
    return not words or folded(name) in NEVER or any(word in NEVER for word in (words[0], words[-1]))


def is_author(name: str) -> bool:
    return folded(name) in _KEYS[AUTHOR] or bool({"author", "autor", "auteur"} & set(words_of(name)))


def is_called_tags(name: str) -> bool:
    """Whether the name is one that tags have, and no more than that."""
    return folded(name) in _KEYS[TAGS]


def is_about_the_row(name: str) -> bool:
    """Whether the column is neither text nor tags, whatever is in it."""
    return is_never_trained(name) or is_author(name)


def find_author(names: Sequence[str]) -> str | None:
    """The column of authors, for splits by author and for the checks: the one that has the shortest such name."""
    return next(iter(_ranked(names, AUTHOR)), None)


def find_text(names: Sequence[str]) -> list[str]:
    """Columns that are called as texts are, the most likely first."""
    return _ranked(names, TEXT)


def find_tags(names: Sequence[str]) -> list[str]:
    """Columns that are called as tags are, the most likely first."""
    return _ranked(names, TAGS)


def find_pair(names: Sequence[str]) -> tuple[str, str] | None:
    """The first known pair that is there with both its columns."""
    by_key = {folded(name): name for name in reversed(names)}
    return next(((by_key[one], by_key[two]) for one, two in PAIRS if one in by_key and two in by_key), None)


def _ranked(names: Iterable[str], synonyms: tuple[str, ...]) -> list[str]:
    """Names that are a synonym, by its rank; then those that contain one as a word. Names of marks are left out."""
    ranks = _KEYS[synonyms]
    whole, partly = [], []
    for name in names:
        if (key := folded(name)) in ranks:
            whole.append((ranks[key], name))
        elif not is_never_trained(name) and (hits := [ranks[word] for word in words_of(name) if word in ranks]):
            partly.append((min(hits), name))
    return [name for found in (whole, partly) for _, name in sorted(found, key=lambda pair: pair[0])]


def _keys(synonyms: tuple[str, ...]) -> dict[str, int]:
    return {folded(word): rank for rank, word in reversed(list(enumerate(synonyms)))}


_KEYS = {group: _keys(group) for group in (TEXT, TAGS, AUTHOR)}
