# ruff: noqa: SIM905  (lists of words read better as text)
"""What the teacher is asked: a seeded grid of topics, forms, voices and settings.

A small teacher repeats itself when asked the same thing twice. Three things keep its answers apart: one to three topics
out of some 260 in each request, a voice or a setting in many of them, and an *opening*, the first words of the answer,
which we write and the teacher continues. The opening also stops it from beginning with "Sure, here is".

Short sayings are the largest share, because sayings are what the model will be tuned on. The sixty `CORE` topics are
drawn more often than the others, because they are the tags of the bundled sayings."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

CORE = (
    "age anger animals art beauty books change children choice courage craft curiosity death doubt dreams failure family fear food "
    "forgiveness freedom friendship garden gratitude grief habit health home honesty hope humility humor justice kindness knowledge "
    "language learning light listening loneliness love memory money music nature night patience peace power promises rest sea silence "
    "success time travel truth weather work writing"
).split()

EVERYDAY = (
    "advice ambition apples apology argument arrival attention autumn bakery balance bargain bees beginnings bells belonging "
    "birds birthdays "
    "blame boats borders boredom bravery bread breakfast bridges brothers building butterflies buttons candles care cats caution ceremony "
    "chance character charity cheese chess childhood cities clay clocks clouds coffee cold colors comfort community compassion confidence "
    "conscience cooking cooperation country crowds customs dance danger daughters dawn debt decisions desert desire dignity discipline "
    "discovery distance dogs doors dust duty earth echoes education effort elders empathy endings energy envy evening exercise experience "
    "experiments eyes failure faith fairness fame farming fashion fathers festivals fields fire fishing flowers focus foxes "
    "fog forests friends fruit "
    "furniture future games generosity gifts gossip grandparents grass greed growth guests guilt hands happiness harvest haste hats "
    "healing history holidays homework horses hospitality houses hunger ice ideas ignorance illness imagination independence ink insects "
    "instinct invention islands jealousy journeys joy judgment keys kitchens ladders lakes lamps laughter law laziness leadership leaves "
    "leisure letters libraries lies logic loss loyalty luck lunch machines manners maps markets marriage mathematics meals medicine "
    "meetings mirrors mistakes modesty mornings mothers mountains moving names neighbors news noise numbers oceans old friends order "
    "pain paper parents parting paths paint pens perseverance photographs plants play pleasure poetry politeness potatoes pottery praise "
    "prayer prejudice pride privacy problems progress purpose questions rain reading reason recipes regret respect "
    "responsibility rivers roads "
    "rocks roots routine rumors sadness sailing salt schools science seasons seeds self-control shadows shame sharing sheep ships shoes "
    "shyness sisters skill sleep smiles snow soap soil solitude songs soup spring stars stories storms strangers strength stubbornness "
    "study summer sunrise surprise tables talent taste tea teachers teamwork technology temper the moon theater thought thrift tools towns "
    "toys traditions trains trees trust umbrellas uncertainty unity universe vanity vegetables villages voices waiting walking walls war "
    "water wealth wind windows wine winter wisdom wolves wonder wood words worry youth"
)
EXTRA = sorted(set(EVERYDAY.replace("old friends", "friends").replace("the moon", "moonlight").split()) - set(CORE))

VOICES = (
    "a fisherman|a grandmother|a schoolteacher|a carpenter|a nurse|a shepherd|a young poet|an old sailor|a baker|a gardener|"
    "a night watchman|"
    "a traveler|a potter|a librarian|a farmer|a judge|a musician|a mountain guide|a retired engineer|a tailor|a ferryman|"
    "a doctor|a clockmaker|"
    "a beekeeper|a mother of three|a quiet uncle|a street cleaner|a painter|a student|a cook"
).split("|")
SETTINGS = (
    "a kitchen at night|a railway station|a small village|a harbor|a hospital corridor|a school yard|a mountain path|a library|a workshop|"
    "a market square|a garden after rain|a bus in the city|a farm in winter|a beach at dawn|a quiet street|an attic|a bakery "
    "before sunrise|"
    "a river bank|an old theater|a waiting room|a forest|a classroom|a lighthouse|a train at night|a boat on a lake"
).split("|")
CREATURES = (
    "fox crow turtle hare wolf sparrow mouse lion donkey bee spider goat owl frog snail heron dog cat bear ant oak reed river stone candle"
).split()
NAMES = (
    "Anna Tom Maria Elias Ruth Samuel Clara Ben Nora Hugo Ida Martin Rose Peter Lena Oscar Julia Paul Edith Felix Alma Simon Vera Leo"
).split()

SAYING_OPENINGS = (
    "A|The|An|Every|No|One|Those who|He who|She who|Whoever|When|Where|If|If you|Do not|Never|Always|Even|Only|We|You|They|It is|It takes|"
    "There is|There are|Some|Many|Most of|Few|All|In|In the|On|At|To|To be|For|From|With|Without|What|Who|Nothing|Everything|"
    "Sometimes|Often|Before|After|Until|Let|Give|Ask|Keep|Look|Listen|Learn|Remember|Speak|Begin|Trust|Better|The best|The first|The last|"
    "The more|The one who|A man|A woman|A child|A good|A small|A little|A true|A life|A heart|A day|A house|A door|A road|Our|Your|My|"
    "People|The world|The heart|The wise|The old|The young|Not every|Not all|Just as|Like|As|While|Though|Because|Once|Today|Tomorrow|Two|"
    "Between|Behind|Under|Beyond|How|Why|Be|I|I have|My mother|An honest|Small|Great|Old|Time|Anyone|Somewhere|Long|Good"
).split("|")


@dataclass(frozen=True)
class Form:
    """One kind of text: how often it is asked for, how long it may be, what the request says and how the answer may
    begin."""

    name: str
    share: float  # of all requests
    max_new: int  # tokens
    requests: tuple[str, ...]
    openings: tuple[str, ...]


FORMS = (
    Form(
        "saying",
        0.68,
        60,
        (
            "Write one short, wise saying about {topics}. Answer with the saying alone.",
            "Write one sentence of advice about {topics}.",
            "Write a saying of one sentence about {topics}.",
            "Write a short, original proverb about {topics}.",
            "In one or two plain sentences, say something true about {topics}.",
        ),
        tuple(SAYING_OPENINGS),
    ),
    Form(
        "reflection",
        0.09,
        200,
        (
            "Write a short reflection on {topics}.",
            "Write a short reflection on {topics}, in the voice of {voice}.",
            "Write one paragraph about what {topics} can teach us.",
        ),
        tuple(
            "|I|When|There is|Most people|It is|We|In my|As a child,|I used to|The|Every|Some days|For a long time|Nobody|One morning"
            "|To me,".split("|")
        ),
    ),
    Form(
        "scene",
        0.07,
        216,
        (
            "Write a short scene set in {setting}, about {topics}. Use plain words.",
            "Write a short story about {name}, {voice}, and {topics}.",
            "Tell a small story about {topics} that takes place in {setting}.",
        ),
        tuple(
            "|The|{name}|It was|On|In the|{name} had|{name} sat|Nobody|That morning,|One evening,|She|He|There was|After".split(
                "|"
            )
        ),
    ),
    Form(
        "explanation",
        0.06,
        200,
        (
            "Explain in plain words why {topics} matters to people.",
            "Explain to a child what {topics} means.",
            "Write a short, factual paragraph about the history of {topics}.",
            "Write a short, factual paragraph about {topics}.",
            "What do we know about {topics}? Answer in one paragraph.",
        ),
        ("", "The", "{Topic}", "In", "People", "For", "A", "There are", "When", "One", "Since", "Many", "It"),
    ),
    Form(
        "dialogue",
        0.02,
        216,
        (
            "Write a short conversation between {voice} and a child about {topics}. Put what they say in quotation marks.",
            "{name} and {voice} talk about {topics}. Write what they say, in quotation marks.",
        ),
        ('"', '"Why', '"What', '"Do you', '"I', '"Tell me', '"You', '{name} asked, "', '"When', '"Is'),
    ),
    Form(
        "letter",
        0.02,
        216,
        (
            "Write a short letter from {voice} to {name} about {topics}.",
            "Write a short, warm letter to {name} about {topics}.",
        ),
        ("Dear {name},",),
    ),
    Form(
        "fable",
        0.03,
        216,
        ("Write a short fable about a {creature}, with a lesson about {topics}.",),
        tuple(
            "A {creature}|Once a {creature}|There was once a {creature}|An old {creature}|One day a {creature}|The {creature}"
            "|In a {setting_plain},".split("|")
        ),
    ),
    Form(
        "description",
        0.03,
        160,
        ("Describe {setting} in a way that shows {topics}.", "Describe {topics} as {voice} sees it."),
        ("", "The", "A", "In", "There", "It", "At", "You", "From"),
    ),
)
assert abs(sum(form.share for form in FORMS) - 1.0) < 1e-9


@dataclass(frozen=True)
class Prompt:
    """One request. `request` goes to the teacher; `opening` is the beginning of its answer."""

    form: str
    topics: tuple[str, ...]
    request: str
    opening: str
    max_new: int


def join_words(words: tuple[str, ...] | list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def draw_topics(rng: random.Random) -> tuple[str, ...]:
    """One to three different topics, alphabetical, two of three from the core."""
    count = rng.choices((1, 2, 3), (0.35, 0.5, 0.15))[0]
    topics: set[str] = set()
    while len(topics) < count:
        topics.add(rng.choice(CORE if rng.random() < 0.68 else EXTRA))
    return tuple(sorted(topics))


def draw_prompt(rng: random.Random) -> Prompt:
    """One request with everything in it drawn from `rng`."""
    form = rng.choices(FORMS, [form.share for form in FORMS])[0]
    topics = draw_topics(rng)
    words = {
        "topics": join_words(rng.sample(topics, len(topics))),
        "Topic": topics[0].capitalize(),
        "voice": rng.choice(VOICES),
        "setting": rng.choice(SETTINGS),
        "name": rng.choice(NAMES),
        "creature": rng.choice(CREATURES),
    }
    words["setting_plain"] = words["setting"].removeprefix("an ").removeprefix("a ")
    request, opening = rng.choice(form.requests).format(**words), rng.choice(form.openings).format(**words)
    return Prompt(form.name, topics, request, opening, form.max_new)


def prompts(seed: int, chunk: int, count: int) -> Iterator[Prompt]:
    """The `count` requests of one chunk: the same for the same seed and chunk, whatever was run before."""
    rng = random.Random(f"{seed}/{chunk}")
    for _ in range(count):
        yield draw_prompt(rng)
