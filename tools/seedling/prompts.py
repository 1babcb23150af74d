# ruff: noqa: SIM905  (lists of words read better as text)
"""What the teacher is asked: a seeded grid of topics, forms, voices, settings and subjects.

A small teacher repeats itself when asked the same thing twice. Three things keep its answers apart: one to three topics
out of some 260 in each request, a voice or a setting in many of them, and an *opening*, the first words of the answer,
which we write and the teacher continues. The opening also stops it from beginning with "Sure, here is".

Short sayings are the largest share, because sayings are what the model will be tuned on. The eighty `CORE` topics are
drawn more often than the others, because they are the tags of the bundled sayings."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

CORE = (
    "age anger animals art beauty books change children choice courage craft curiosity death doubt dreams failure family fear food "
    "forgiveness freedom friendship garden gratitude grief habit health home honesty hope humility humor justice kindness knowledge "
    "language learning light listening loneliness love memory money music nature night patience peace power promises rest sea silence "
    "success time travel truth weather work writing "
    "attention balance birds bread compassion dance fire happiness imagination joy laughter leadership mistakes neighbors play pride rain "
    "trees trust wisdom"
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

SUBJECTS = (
    "the Alps|Africa|Antarctica|ants|the apple|Australia|the Baltic Sea|bees|the bicycle|Brazil|the brain|"
    "bridges|Canada|the camel|canals|castles|the cello|chemistry|chess|China|clocks|the coal industry|"
    "the compass|copper|cotton|the crusades|the deer|deserts|the dictionary|dinosaurs|the dolphin|earthquakes|"
    "Egypt|the elephant|engines|England|the eye|farming|ferries|the First World War|football|forests|France|"
    "the French Revolution|frogs|geology|Germany|glaciers|glass|gold|gravity|Greece|the guitar|the heart|horses|"
    "hospitals|hurricanes|ice|India|iron|islands|Italy|Japan|the kidney|kings|lakes|law courts|lead|libraries|"
    "light|lighthouses|lions|the liver|magnets|mammals|maps|Mars|medicine|Mexico|the Middle Ages|mills|mining|"
    "money|monks|the moon|mosquitoes|mountains|museums|mushrooms|newspapers|the Nile|Norway|the ocean|oil|opera|"
    "orchestras|owls|oxygen|paper|parliaments|Peru|the piano|planets|plastic|poetry|Poland|ports|potatoes|"
    "the printing press|prisons|rabbits|radio|railways|rice|rivers|roads|robins|Rome|Russia|salmon|salt|schools|"
    "Scotland|sharks|sheep|ships|silk|silver|the skeleton|slavery|snakes|soap|soldiers|Spain|spiders|stars|steam|"
    "steel|sugar|the sun|Sweden|swans|tea|telephones|the telescope|television|theaters|tigers|tin|tobacco|towers|"
    "trade|trees|Turkey|universities|the violin|volcanoes|wars|water|weather forecasts|whales|wheat|windmills|"
    "wine|wolves|wood|wool|writing systems|the Second World War|albums of songs|a battle at sea|a famous novel|"
    "a film director|a general|a queen|a village church|a storm on the coast|a city bridge|a river valley|"
    "a painter's life|an explorer's journey|a strike of workers|an old ship|an election|a football season|"
    "a composer|a law about schools|a trade route|a mountain railway|a species of bird"
).split("|")
SAYING_OPENINGS = (
    "|||||||||||||||||||||A|The|Every|No|Those who|Whoever|When|If|If you|Do not|Never|Even|We|You|It is|"
    "It takes|There is|Some|Most|What|Nothing|Sometimes|Before|After|You can|Nobody|A good|A child|A man|An old|"
    "My mother|My|Our|People|The best|The first|Old|Not every|Two|Once|Good|Everyone|Anyone who|She|He|They|I|"
    "Ask|Give|Keep|Let|Only|All|In|One|A woman|My father|The hardest part of|The world|Half|Learn"
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
        0.77,
        56,
        ("{topics}",),  # asked for by the line: see `teacher.py`
        tuple(SAYING_OPENINGS),
    ),
    Form(
        "reflection",
        0.05,
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
        0.05,
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
        0.04,
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
        0.015,
        216,
        (
            "Write a short conversation between {voice} and a child about {topics}. Put what they say in quotation marks.",
            "{name} and {voice} talk about {topics}. Write what they say, in quotation marks.",
        ),
        ('"', '"Why', '"What', '"Do you', '"I', '"Tell me', '"You', '{name} asked, "', '"When', '"Is'),
    ),
    Form(
        "letter",
        0.01,
        216,
        (
            "Write a short letter from {voice} to {name} about {topics}.",
            "Write a short, warm letter to {name} about {topics}.",
        ),
        ("Dear {name},",),
    ),
    Form(
        "fable",
        0.015,
        216,
        ("Write a short fable about a {creature}, with a lesson about {topics}.",),
        tuple(
            "A {creature}|Once a {creature}|There was once a {creature}|An old {creature}|One day a {creature}|The {creature}"
            "|In a {setting_plain},".split("|")
        ),
    ),
    Form(
        "description",
        0.01,
        160,
        ("Describe {setting} in a way that shows {topics}.", "Describe {topics} as {voice} sees it."),
        ("", "The", "A", "In", "There", "It", "At", "You", "From"),
    ),
    Form(
        "account",
        0.04,
        200,
        (
            "Write a factual paragraph about {subject}, as in an encyclopedia, with places and years.",
            "Write a short, factual paragraph about the history of {subject}.",
            "Write a plain, factual paragraph about {subject} and {topics}.",
            "Tell, as a newspaper would, about {subject}.",
        ),
        (
            "",
            "The",
            "In",
            "{Subject}",
            "During",
            "A",
            "It was",
            "Since",
            "By",
            "After",
            "Although",
            "Many",
            "On",
            "There",
        ),
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
    count = rng.choices((1, 2, 3), (0.45, 0.5, 0.05))[0]
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
        "subject": rng.choice(SUBJECTS),
    }
    words["Subject"] = words["subject"][0].upper() + words["subject"][1:]
    words["setting_plain"] = words["setting"].removeprefix("an ").removeprefix("a ")
    request, opening = rng.choice(form.requests).format(**words), rng.choice(form.openings).format(**words)
    return Prompt(form.name, topics, request, opening, form.max_new)


def prompts(seed: int, chunk: int, count: int) -> Iterator[Prompt]:
    """The `count` requests of one chunk: the same for the same seed and chunk, whatever was run before."""
    rng = random.Random(f"{seed}/{chunk}")
    for _ in range(count):
        yield draw_prompt(rng)
