# ruff: noqa: SIM905  (lists of words read better as text)
"""The words that requests are made of. `CORE` are the tags of the bundled sayings; `EXTRA` are other topics."""

from __future__ import annotations

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
