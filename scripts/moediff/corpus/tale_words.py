"""Words, sentence frames and plots for `tales`, in the template language described there.

A stock is a tuple of templates. Short ones are written as one comma-separated string, sentence
frames one a line; a backslash at a line's end continues the frame.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(",") if word.strip())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _frames(text: str) -> tuple[str, ...]:
    """Sentence frames, with the full stop that a frame without its own end mark gets."""
    ends = (".", '."', '!"', '?"', "{weather@season}")
    return tuple(line if line.endswith(ends) else f"{line}." for line in _lines(text))


_NAMES = {
    "name_female": _words("""
Mara, Anneke, Priya, Sunita, Leila, Yasmin, Keiko, Hana, Mei, Lin, Amara, Zola, Nia, Ingrid,
Astrid, Freya, Rosa, Lucia, Elena, Sofia, Marisol, Pilar, Chiara, Bianca, Aoife, Niamh, Bronwen,
Carys, Olga, Katya, Irina, Milena, Zofia, Hanna, Greta, Liesel, Clara, Ruth, Esther, Miriam,
Nadia, Farah, Soraya, Aylin, Defne, Thandi, Ayo, Ebele, Wanjiru, Tala, Leilani, Moana, Kaya,
Winona, Beatrix, Harriet, Edith, Mabel, Dorothy, Agnes, Ivy, Hazel, Tess, Wren, Juno, Camille,
Odette, Margot, Solveig, Signe, Tuuli, Aino, Thi, Linh, Suda, Malee, Ximena, Itzel, Ana, Nell"""),
    "name_male": _words("""
Tomas, Pieter, Arjun, Ravi, Omar, Karim, Kenji, Haruto, Wei, Jun, Kofi, Sipho, Jabari, Lars,
Bjorn, Erik, Mateo, Diego, Rafael, Hugo, Paolo, Luca, Cormac, Declan, Emrys, Rhys, Ivan, Misha,
Boris, Pavel, Jakub, Otto, Emil, Anton, Samuel, Elias, Reuben, Yusuf, Idris, Tariq, Emre, Kerem,
Themba, Tunde, Chidi, Mwangi, Bayani, Kai, Tane, Ahanu, Walter, Alfred, Edwin, Rufus, Oscar,
Jasper, Felix, Silas, Ned, Barnaby, Luc, Marcel, Etienne, Nils, Aksel, Eero, Juhani, Minh, Duc,
Somchai, Tenoch, Pablo, Iker, Goran, Milos, Andrei, Bogdan, Levon, Davit, Hamish, Angus, Ewan"""),
}

_PEOPLE = {
    "trade": _words("""
baker, weaver, potter, miller, tinker, fiddler, ferryman, shepherd, cobbler, gardener, beekeeper,
carpenter, glassblower, clockmaker, fisher, mapmaker, lamplighter, teacher, tailor, blacksmith,
bookbinder, candlemaker, basket maker, cook, sailor, librarian, painter, stonemason,
letter carrier, cheesemaker, goatherd, rope maker, kite maker, dyer, cooper, farrier, thatcher,
printer,
puppeteer, astronomer, toymaker, roofer, bargeman, herbalist, wheelwright, bell ringer,
chimney sweep, orchard keeper, lighthouse keeper, innkeeper, saddler, brewer, ice cutter"""),
    "animal": _words("""
hedgehog, badger, otter, hare, fox, squirrel, mole, heron, rabbit, mouse, toad, beaver, raccoon,
porcupine, tortoise, owl, magpie, wren, crane, dormouse, weasel, goat, donkey, pony, duck, goose,
hen, frog, newt, marmot, lynx, bear, stork, pelican, lizard, gecko, vole, shrew, kingfisher"""),
    "child_female": ("girl", "girl", "goose girl", "farm girl", "apprentice"),
    "child_male": ("boy", "boy", "stable boy", "farm boy", "apprentice"),
    "trait": _words("""
patient, curious, stubborn, shy, cheerful, careful, restless, proud, gentle, bold, dreamy, honest,
clever, thrifty, generous, forgetful, quiet, talkative, hasty, brave, tidy, untidy, kind, lonely,
merry, solemn, nimble, clumsy, hopeful, grumpy, thoughtful, sleepy, loyal, modest, impatient,
practical, fearless, anxious, eager, stern, witty, absent-minded, hard-working, warm-hearted"""),
    "relation": _words("""
cousin, neighbour, oldest friend, best friend, friend, apprentice, lodger, helper,
travelling companion, rival, schoolmate, partner"""),
}

_WORDS = {
    "metal": _words(
        "brass, copper, silver, iron, tin, pewter, steel, bronze, gilded, rusty, \
bright"
    ),
    "metal_thing": _words("""
compass, key, whistle, bell, lantern, thimble, spoon, locket, buckle, kettle, horn, medal, watch,
ring, coin, brooch, hand mirror, penknife, anchor charm, candlestick, teapot, padlock,
telescope"""),
    "wood": _words("""
oak, walnut, cherry wood, birch, cedar, willow, maple, ash wood, pine, olive wood, bamboo, elm"""),
    "wood_thing": _words("""
box, flute, bowl, spinning top, walking stick, chess piece, comb, fiddle, drum, toy boat, ladle,
picture frame, puppet, stool, pencil case, rattle, recorder, bird whistle, mask, sledge, tray"""),
    "colour": _words("""
red, blue, green, yellow, grey, scarlet, purple, orange, white, black, brown, golden, crimson,
violet, turquoise, ivory, amber, pink, silver-grey, indigo, plum-coloured, sea-green, cream"""),
    "cloth_thing": _words("""
scarf, shawl, cap, coat, ribbon, kite, blanket, cushion, flag, quilt, satchel, purse, glove,
mitten, apron, sash, banner, waistcoat, slipper, pillowcase, tablecloth, hood, cloak"""),
    "other_thing": _words("""
notebook, map, teacup, umbrella, marble, music box, book of songs, feather, seashell, jar of honey,
paintbrush, sketchbook, magnifying glass, basket, fishing rod, almanac, bottle, chess set, jug,
spyglass, recipe book, ball of twine, paper boat, oil lamp, wind chime, snow globe, hourglass"""),
    "age": _words(
        "old, worn, ancient, brand-new, well-loved, dented, patched, tiny, heavy, \
curious, plain, splendid, faded, polished, cracked, odd, dusty, beautiful, battered, slender, \
round"
    ),
    "adj": _words("""
narrow, crooked, quiet, empty, sunny, shady, dusty, mossy, windy, muddy, ruined, crowded, lonely,
whitewashed, half-hidden, ivy-covered, steep, broken, silent, ancient, bright, moonlit, frosty,
sleepy, tumbledown, cobbled, winding, overgrown, cool, echoing, lamplit, weathered, painted"""),
    "place": _words("""
mill, market, harbour, bridge, orchard, chapel, bakery, schoolhouse, lighthouse, quarry, meadow,
well, boathouse, inn, library, smithy, greenhouse, stable, bell tower, vineyard, courtyard, garden,
ferry landing, railway station, town hall, watchtower, fountain, graveyard, sawmill, dairy, barn,
tea house, post office, theatre, granary, workshop, crossroads, toll gate, windmill, pier,
dovecote"""),
    "spot_noun": _words("""
bench, staircase, barrel, haystack, oak, willow, hedge, doorstep, wardrobe, woodpile, chimney, cart,
rain barrel, milestone, stone wall, rowing boat, chest, stove, bookshelf, beehive, scarecrow, pump,
apple tree, anvil, statue, sundial, piano, wheelbarrow, bramble bush, plough, trough, clock, loom,
birdcage, fig tree, flour bin, cupboard, ladder, signpost, chicken coop, weathervane, sawhorse"""),
    "wild": _words("""
forest, mountain pass, marsh, moor, valley, river, desert, lake, gorge, island, glacier, salt flats,
beech woods, pine forest, canyon, high plateau, dunes, waterfall, cave, heath, reed beds,
foothills"""),
    "plural": _words("""
lanterns, apples, buttons, feathers, pebbles, sparrows, barrels, candles, ribbons, acorns, bees,
crumbs, herrings, ropes, goats, chestnuts, kettles, maps, stars, gulls, onions, pigeons, cabbages,
swallows, geese, oars, shutters, carts, plums, needles, teacups, postcards, drums, tulips, cats,
wheels, nets, hats, lemons, walnuts, bells, daisies, puddles, fireflies, turnips, bottles, spoons,
kites, mushrooms, moths, snails, coins, baskets, sheep, boots, figs, peppers, ducklings,
crickets"""),
    "food": _words("""
barley soup, rye bread, plum cake, goat cheese, fried fish, lentil stew, honey cakes, dumplings,
roasted chestnuts, pancakes, rice with saffron, apple pie, flatbread, pickled beets, pea soup,
noodles, ginger biscuits, baked potatoes, corn porridge, olives, date bread, mushroom pie, toast,
cinnamon buns, bean stew, poppy-seed rolls, smoked trout, cherry tart, buttered turnips,
oatcakes"""),
    "drink": _words(
        "mint tea, warm milk, cider, cocoa, cold water, black tea, elderflower \
cordial, ginger tea, apple juice, barley water, coffee, lemonade, broth, goat milk, rosehip tea"
    ),
    "plant": _words("""
pear tree, rose bush, pumpkin vine, sunflower, apple tree, lemon tree, walnut tree, peony, bean
vine, cherry tree, lavender bush, fig tree, melon vine, hazel bush, plum tree, magnolia, lily,
almond tree, quince tree, gooseberry bush, chestnut tree, foxglove, blackcurrant bush"""),
    "tool": _words("""
hammer, saw, rake, spade, needle, chisel, broom, rope, ladder, bucket, plane, trowel, hoe, pulley,
wheelbarrow, axe, paintbrush, crowbar, file, mallet, drill, sieve, shovel, pair of pliers"""),
    "building": _words("""
bridge, boat, windmill, treehouse, oven, raft, henhouse, kite, clock, bell tower, stage, bench,
footbridge, water wheel, greenhouse, dovecote, cart, swing, library, sledge, fence, well house"""),
    "stuff": _words("""
planks, nails, rope, clay, canvas, bricks, tar, oak beams, copper wire, straw, flat stones, glue,
old barrels, sailcloth, willow rods, lime, paint, shingles, hinges, pegs, driftwood, iron hoops"""),
    "creature": _words("""
lamb, kitten, owlet, foal, puppy, hedgehog, swan, fawn, goat, donkey, jackdaw, crane, fox cub, calf,
tortoise, hare, duckling, gosling, bat, otter, seal pup, pigeon, piglet, heron"""),
    "adv": _words("""
quietly, slowly, gladly, softly, firmly, shyly, gravely, cheerfully, calmly, kindly, proudly, sadly,
thoughtfully, briskly, sleepily, politely, nervously, warmly, drily, gently, hopefully, bravely"""),
    "feeling": _words("""
joy, relief, worry, shame, pride, hope, wonder, sorrow, doubt, gratitude, fear, curiosity, delight,
courage, envy, longing, surprise, tenderness, impatience, happiness, loneliness, excitement"""),
    "bad_mood": _words("""
worried, sad, ashamed, tired, cross, puzzled, lonely, afraid, gloomy, uneasy, restless, angry,
foolish, disappointed, miserable, discouraged, homesick, confused, frightened, weary"""),
    "good_mood": _words("""
happy, proud, calm, grateful, relieved, content, light-hearted, pleased, hopeful, amazed, merry,
cheerful, delighted, peaceful, thankful, rich, brave, warm, at home, wide awake"""),
    "moved": _words("""
walked, hurried, ran, wandered, climbed, trudged, crept, strolled, marched, limped, hastened,
skipped, plodded, rushed, tramped, tiptoed, rambled, scrambled, went, set off"""),
    "number": _words(
        "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, \
twenty"
    ),
    "few": _words("two, three, four, five, six, seven"),
    "season": ("spring", "summer", "autumn", "winter"),
    "voice_kind": _words(
        "low, small, bright, hoarse, steady, trembling, loud, gentle, sleepy, \
clear"
    ),
    "quality": _words("""
patience, honesty, kindness, courage, good humour, friendship, trust, hard work, a steady hand,
a listening ear, generosity, curiosity, a kept promise, forgiveness, a plain answer,
good company"""),
    "town_a": _words("""
Ash, Brindle, Copper, Dun, Elder, Fen, Glass, Hollow, Iron, Juniper, Kestrel, Lark, Mill, Nettle,
Oak, Pebble, Quill, Raven, Salt, Thistle, Umber, Vesper, Willow, Yarrow, Amber, Birch, Cinder,
Dapple, Ever, Fox, Goose, Heather, Long, Marl, North, Otter, Pine, Rook, Silver, Tallow"""),
    "town_b": _words("""
ford, mere, wick, ton, haven, bridge, dale, field, combe, stead, gate, hurst, port, moor, brook,
cliff, well, bury, marsh, den, holm, crest, fold, ness"""),
    "month": _words(
        "January, February, March, April, May, June, July, August, September, \
October, November, December"
    ),
    "ordinal": _words(
        "first, second, third, fourth, fifth, sixth, seventh, ninth, tenth, \
twelfth, fourteenth, twentieth, twenty-first"
    ),
}

_PHRASES = {
    "town": ("{town_a}{town_b}",) * 4
    + ("{town_a} {town_end}", "Port {town_a}", "Little {town_a}{town_b}"),
    "both_third": ("{h} and {f.obj}", "{h} and {f.obj}", "{f} and {h.obj}"),
    "both_teller": ("{f} and I",),
    "town_end": ("Bay", "Hill", "Cross", "Green", "Falls", "Point", "Landing"),
    "thing": (
        "{metal} {metal_thing}",
        "{wood} {wood_thing}",
        "{colour} {cloth_thing}",
        "{age} {other_thing}",
        "{age} {metal_thing}",
        "{colour} {other_thing}",
    ),
    "spot": (
        "[under|behind|beside|next to] the [{adj} |{colour} |old |]{spot_noun}",
        "[under|behind|close to] the {spot_noun} [of|at|near] the {place}",
        "in the shadow of the [{adj} |old |]{spot_noun}",
    ),
    "where": (
        "at the [{adj} |]{place}",
        "near the {adj} {place}",
        "[behind|beside|outside] the {place}",
        "at the edge of the {wild}",
        "on the road to {town}",
        "among the {plural}",
    ),
    "path": (
        "past the {adj} {place}",
        "along the {adj} [lane|road|path|street|bank]",
        "through the {wild}",
        "across the {adj} [square|field|yard|hill]",
        "down to the {place}",
        "up the {adj} hill",
        "from the {place} to the {place}",
        "as far as the {place}",
        "between the {plural} and the {adj} wall",
    ),
    "time": _lines("""
that evening
the next morning
after [breakfast|supper|lunch|a long rest]
before [noon|dawn|sunset|the bells rang]
at [dawn|noon|dusk|midnight|first light|sunset]
on the {ordinal} day
{few} days later
a little later
by and by
later that [day|week|night|afternoon]
when the [church clock|town clock|old bell] struck {few}
as the [sun|moon] rose
one [windy|quiet|grey|golden|frosty|sleepy] [morning|evening|afternoon]
in the middle of the [night|morning|afternoon]
not long afterwards
half an hour later
toward evening"""),
    "simile": _lines("""
like a {creature} in {season}
as [quiet|soft|light] as a [{colour} |]feather
like [a bell|a drum] under water
like a lamp in a {adj} {place}
as [busy|bold|brisk] as a {animal}
as if the {place} itself were listening
as though {number} {plural} had tumbled down the stairs
like {plural} in a storm
as [slow|stubborn|steady] as an old {animal}
like a {trade} on market day"""),
    "while": _lines("""
while the wind [pulled|tugged|tore] at the {plural}
while the {plural} [shone|waited|lay] in the {adj} yard
while somewhere a {animal} called
as the light faded over the {place}
while the town of {town#home} slept
while smoke rose from the {place}
as the shadows of the {plural} grew longer
while a {trade} sang {where}
as the last {plural} were carried home
with the smell of {food} in the air
while {number} {plural} looked on
and the {place} was very still"""),
    "ger": _lines("""
smiling
rubbing {self_less} chin
counting the {plural}
looking out over the {wild}
pouring some {drink}
pointing toward the {place}
setting down the {tool}
brushing away the crumbs of the {food}
after a long silence
without looking up from the {tool}
shaking the {tool} in the air
wiping the dust from a {metal_thing}
glancing at the {plural}
sitting down on a {spot_noun}
leaning on the {spot_noun}
between two bites of {food}"""),
    "self_less": ("a", "one thoughtful"),
    "tag": (
        "",
        "",
        "",
        " {adv}",
        ", {ger}",
        " in a {voice_kind} voice",
        " at last",
        " {adv}, {ger}",
    ),
    "sound": _lines("""
the [creak|squeak|rattle] of the {adj} {place}
the song of a {trade} {where}
the [cry|call|voice] of a {animal}
the clatter of {plural}
a bell from {town}
the wind in the {plural}
the sound of footsteps {where}
the slow drip of water on {plural}"""),
    "fact": _lines("""
the {place} was built by {number} brothers
a {trade} once slept {spot} for a whole {season}
{plural} are worth more than {plural} in {town}
the best {food} is made in {town}
a {animal} can find its way home from the {wild}
nobody in {town} owns a {thing}
{plural} bring luck in {season}
there is a {thing} under the {place}
the {trade} of {town} has {number} {plural} and not one {metal_thing}
every {animal} in the {wild} knows a song"""),
    "opening_third": _frames("""
in the [{adj} |little |]town of {town#home} there lived {h.intro}
there was once {h.intro}, who lived {where} in {town#home}
{h.intro} lived {spot} near {town#home}, with {number} {plural} and a {thing}
everyone in {town#home} knew {h.name}, the {trait#trait} {h.role} who kept {plural} {where}
on the edge of the {wild}, not far from {town#home}, lived {h.intro}
{h.name} was a {h.role} of {town#home}, and no {h.role} was more {trait#trait}
long ago, when {town#home} had only {number} houses and one {place}, {h.intro} lived there
nobody could remember when {h.intro} had first come to {town#home}
in {season#season}, the streets of {town#home} smelled of {food}, and {h.intro} loved that smell
of all the people in {town#home}, {h.name} the {h.role} was the most {trait#trait}
if you had come to {town#home} that {season#season}, you would have met {h.intro} {where}
{h.intro} had a [small|narrow|warm|draughty] house {where} in {town#home}"""),
    "opening_teller": _frames("""
in those days I was a {trait#trait} {h.role} in {town#home}
I was born in {town#home}, in a house {where}, and I was always {trait#trait}
when I was a {h.role} in {town#home}, I owned {number} {plural} and one {thing}
I want to tell what happened to me in {town#home} that {season#season}
that {season#season} I was a {h.role} and lived {where} in {town#home}
people in {town#home} say that I am {trait#trait}, and perhaps they are right
it began in {town#home}, on a {season#season} day, when I was still a {h.role}
my house stood {where} in {town#home}, and from its window I saw {plural} and the {wild}
I have never been more than a {trait#trait} {h.role}, but this is worth writing down
before that {season#season} I had never left {town#home}"""),
    "opening_more": _frames("""
{h} [was fond of|cared for|never tired of] {plural}, {food} and {h.his} {thing#own}
every [morning|evening] {h} [walked|wandered|strolled] {path} to look at the {plural}
{h.his} [mother|father|grandmother|uncle|aunt] had been a {trade} in {town}
{h} had {number} {plural}, a {thing#own}, and a [great|small|secret] fear of {plural}
{h} could [mend|paint|carry|draw|count] {plural} faster than any {trade} in the {place}
on quiet days {both@voice} [sat|talked|played chess] {spot}
{h.his} [neighbours|friends] said that {h} was as {trait} as a {animal}
what {h} liked best was {food} with {drink}, {where}
{h} always carried a {thing#own}, a gift from a {trade} of {town}
{h} had one [wish|dream]: to see the {wild} in {season}
there was not much money in the house, but there was {food} and {drink}
{h} did not like {plural}, but {h} [loved|liked|trusted] the {wild}"""),
    "want_day": _frames("""
{time}, [everything changed|something happened that nobody had expected|the trouble began]
{h} did not know that it would be a [strange|long|remarkable|difficult] {season#season}
that {season#season}, {h} felt more {feeling} than ever before
then came a day that {h} would remember for {number} years
{time}, {h} woke with a feeling of {feeling}
it was the {ordinal} of {month}, and {h} was [early|late|still half asleep]
{h} had [planned|hoped] to spend the day with {plural}, but the day had other plans
{time}, there was {sound}, and {h} [looked up|stopped|listened]"""),
    "home_detail": _frames("""
{h.his} door was {colour}, and a {thing} hung above it
the window looked out on the {adj} {place} and the {plural}
{number} {plural} stood on the shelf beside a {thing}
a {creature} slept every night {spot}
there was always {drink} on the stove and {sound} in the air
the {place} next door belonged to a {trade} who sold {plural} and {food}
one could hear {sound} from {h.his} bed
the roof leaked in {season}, and {plural} stood everywhere to catch the water"""),
    "weather_spring": _frames("""
the snow had melted from the {place}, and the {plural} were out in the sun
a soft [rain|wind] blew {path}
it was spring, and {plural} lay in the grass {where}
the [almond|cherry|apple] trees {where} were white with blossom
a thin April rain tapped on the {plural}
the river ran high and brown below the {place}
the air smelled of wet earth and {food}
swallows had come back to the {place}"""),
    "weather_summer": _frames("""
the sun stood [high|hot] above the {place}, and even the {animal} kept in the shade
it had not rained for {number} days, and dust lay on the {plural}
the evening was warm, and {sound} hung in the air
heat shimmered over the {wild}
a warm wind carried {sound} from the {place}
thunder muttered far away over the {wild}
the grass {where} had turned yellow
nights were so short that the {plural} hardly got dark"""),
    "weather_autumn": _frames("""
yellow leaves blew {path}
fog lay over the {place}, and the {plural} dripped
the first cold wind of autumn rattled the {plural}
the [hills|woods] beyond {town#home} had turned {colour} and {colour}
it rained on the {place} for {few} days
the smell of smoke and {food} hung in the lanes
wild geese flew over the {wild}
mist rose from the {wild} and hid the {place}"""),
    "weather_winter": _frames("""
snow lay {adj} and deep {where}
the {place} was white with frost, and icicles hung from the {plural}
the pond beside the {place} had frozen
a north wind blew {path} and rattled the {plural}
it was so cold that {drink} froze in the cup
the sky was grey as a {metal} {metal_thing}
snow fell all day on the {plural}
the stars above the {wild} were sharp and cold"""),
    "feel_bad": _frames("""
{h} felt {bad_mood} and [a little|very|rather] {bad_mood}
{h} could not [sleep|eat|think of anything else] that night
"I have never been so {bad_mood}," {h} thought
{h.his} heart beat {simile}
for a while {h} stood {spot} and did not move
{feeling} and {feeling} wrestled in {h.his} heart
even {food} did not taste of anything
{h} tried to whistle, but it sounded {simile}
there was a lump in {h.his} throat, and the {plural} blurred before {h.his} eyes
{h} was too {bad_mood} to notice {sound}"""),
    "feel_good": _frames("""
{h} felt {good_mood}, {while}
{h.his} {feeling} grew {simile}
{h} laughed so loudly that the {plural} shook
"I am {good_mood}," {h} thought, "and it is only {few} o'clock."
suddenly the {place} looked {good_mood_place}
{h} could have danced {path}
all the {feeling} of that {season#season} fell away {simile}
{h} had not felt so {good_mood} since {h.he} first saw the {wild}"""),
    "good_mood_place": (
        "friendly",
        "smaller and kinder",
        "as new as a {thing}",
        "almost beautiful",
    ),
    "go": _frames("""
{time}, {h} {moved} {path}, {while}
{h} {moved} {path} and then {path}
[so|and so|at once] {h} {moved} {path}
with a {thing} in one pocket and some {food} in the other, {h} {moved} {path}
{time}, {h} [packed|took] {food}, a {tool} and a {thing}, and {moved} {path}
{h} {moved} {path}, where {plural} [lay|stood] in rows
after {number} [steps|minutes|miles], {h} stopped {spot} to listen
{h} {moved} on, {simile}, until {h.he} reached the {adj} {place}
the way led {path}, and {h} [followed it|did not stop|counted the {plural}]
{path}, {h} met nobody but a {animal} and a {trade} with {number} {plural}
{h} took the short way {path}, although it was [steep|muddy|dark|slippery]"""),
    "told": _frames("""
"once," {o.said}, "a {trade#tt} in {town} caught a {animal#ta} that could talk. It promised \
{number} {plural} for its freedom. The {trade#tt} wanted nothing, and opened the cage. \
{few_years}, when the {place} burned, the {animal#ta} woke the whole town. That is why I believe \
in {quality}."
"my [grandmother|grandfather|aunt] was a {trade}," {o.said}{tag}. "One {season} the {wild} \
swallowed the road, and there was nothing left to eat but {food}. So everybody brought \
[{plural}|{food}|{drink}|a little {stuff}], and the pot was never empty. ^{quality} can do that."
"there is a story about two {plural_people}," {o.said}{tag}. "They both wanted the same {thing}. \
They pulled {simile}, until it broke, and then each had half of nothing. Since then, people in \
{town} say that {quality} is cheaper than glue."
"a king of {town} once asked for the most precious thing in the land," {o.said}. "One man brought \
a {metal} {metal_thing}, another {number} {plural}. A girl brought {drink}, because the king \
looked thirsty. He drank it, and he gave her the {place}."
"do you know why the {animal#ta} lives in the {wild}?" {o.asked}{tag}. "It quarrelled with the \
moon about a {thing}. The moon [said nothing|smiled|hid behind a cloud], and went on \
[shining|counting {plural}|shining on the {place}]. The {animal#ta} has been \
[hiding|ashamed|listening] ever since."
"when I was young," {o.said}, "I lost my way in the {wild}. A {trade#tt} gave me {food} and asked \
for nothing. I have looked for that {trade#tt} for {number} years, and I pay my debt to everybody \
else."
"in {town} there was a clock that told the truth," {o.said}{tag}. "The {trade} asked it for the \
time, and it said that it was time to mend the roof. [People|The {trade} and all of {town}|Every \
{trade}] laughed. Then the {season} storms came, and only one roof held."
"a {animal} and a {creature} once shared a house," {o.said}{tag}. "The one was always {bad_mood}, \
the other always {good_mood}. They bought a {thing}, and took turns being wrong. They were happy \
for {number} years."
"the first {trade} of {town} could not [count|read|whistle|swim]," {o.said}. "A child taught him, \
for {number} {plural}. {few_cap}, the child came back and asked for {number} more. He gave \
{quality} instead, and it lasted longer." """),
    "few_years": ("{number} years later", "the next {season}", "much later"),
    "few_cap": ("^{few_years}",),
    "plural_people": ("brothers", "sisters", "neighbours", "sailors", "shepherds", "old friends"),
    "smalltalk": _frames("""
"did you know that {fact}?" {f.asked}{tag}. "No," {h.answered}, "but I have heard that {fact}."
"I would give {number} {plural} for some {food} now," {f.said}{tag}. {h} [laughed|nodded|sighed].
"listen to the {place}!" {h.cried}. There was {sound}, and then {sound}. "It is only a {animal}," \
{f.said}{tag}.
"my {uncle} says that {fact}," {f.said}{tag}. "Your {uncle} says many things," {h.answered}.
{f} told {h.obj} that {fact}. {h} did not believe it, but {h.he} [smiled|listened|said nothing].
"what would you do with {number} {plural}?" {f.asked}. "Sell them and buy a {thing}," \
{h.answered}{tag}.
{they_cap} talked about {plural}, about {food}, and about the {trade} who had moved to {town}.
"are you {bad_mood#mood} [already|again|now|from all the {plural}]?" {f.asked}{tag}. "As \
{bad_mood#mood} as a {animal} in {season}," {h.answered}."""),
    "they_cap": ("^{they}",),
    "uncle": ("uncle", "aunt", "grandmother", "brother", "sister", "teacher", "grandfather"),
    "rest": _frames("""
{they} [ate|shared] {food} {spot} and drank {drink}, {while}
{time}, {h} sat down {spot} and ate {food}
a {trade} {where} gave {h.obj} {drink} and a piece of {plain_food}
{h} slept {spot}, and dreamed of {plural} and a {thing}
{time}, {they} made a small fire {where} and [warmed|dried] {their} feet
{h} washed {h.his} {h.hands} and drank {drink} from a {metal} cup
there was {food} for supper, and {sound} all night
{h} rested {where} until the {plural} had stopped [shaking|glittering|falling]"""),
    "plain_food": ("bread", "cheese", "cake", "pie", "sausage", "cold pudding"),
    "ending": _frames("""
{time}, {they} [ate|shared] {food} {where}, and there was enough for everybody
since that {season#season}, {both@voice} have met every {weekday} {spot}
and when the {place} bell rang, {h} [went home|walked home|turned for home], {good_mood} at last
from then on, nobody in {town#home} [laughed at|forgot|doubted] {h.obj}
that night {h} slept soundly, {while}
"[next|every] {season#season}," {f.said}{tag}, "{we_plan}."
{h} hung {h.his} {thing#own} above the door, where everyone could see it
and if you go to {town#home} today, a {trade} will show you the {place} and tell you this tale
{h} poured {drink} for everyone, and {f} [sang|danced|told jokes] until {few} o'clock
so the {season#season} ended in {town#home}: with {food}, {drink} and {sound}
{time}, {h} wrote it all down in a {colour} book, so that nobody would forget
{h} never became [rich|famous], but {h.he} was {good_mood}, and that was enough for {h.obj}
the last thing {h} heard before sleep was {sound}, and it sounded {simile}"""),
    "weekday": _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "we_plan": _lines("""
we will walk to the {wild}
I will bring the {food}
we will paint the {place} {colour}
you must teach me to mend {plural}
let us do it again, but with {drink}
I will be the {trade} and you the {animal}
nobody will have to ask twice
we will remember the {plural}"""),
    "moral": _frames("""
after all, {quality} is worth more than {number} {plural}
for {quality} and {quality} go [a long way|hand in hand|further than a fast horse]
{h} had learned that {quality} cannot be bought with {plural}
a {thing} may break, but {quality} does not
whoever has {quality} needs no {metal} {metal_thing}
"{quality}," people in {town#home} still say, "is the best {tool} in the house."
and it is true that {quality} often begins with {food}
{o} used to say that {quality} [keeps|warms] better than {drink}, and perhaps that is so"""),
    "last_image": _frames("""
outside, {sound} mixed with {sound}
only the {animal} {spot} had seen everything, and it told nobody
above the {wild} the stars came out, one after the other
{weather@season}
a {creature} yawned {spot}
somewhere {where}, a {trade} began to sing
the {plural} shone {simile}
and the {adj} {place} kept its secrets"""),
    "letter_head": _frames("""
dear {name#reader}, you asked how I spent the {season#season}, so let me tell you.
my dear {name#reader}, thank you for the {thing} and the {food}. I have news too.
dear {name#reader}, I write to you from {town#home}, {where}. You will hardly believe this letter.
dear {name#reader}, your letter arrived with {number} stamps and smelled of {food}. Here is mine.
good {name#reader}, you once told me that {fact}. I have a better story for you.
dear {name#reader}, forgive my long silence. It was a [strange|busy|hard|happy] \
{season#season}."""),
    "name": ("{name_female}", "{name_male}", "Aunt {name_female}", "Uncle {name_male}"),
    "letter_close": _frames("""
write soon, and tell me about the {plural}. Your friend, {h.name}
I send you {number} {plural} and a kiss. Yours, {h.name}
come and visit when it is {season}, {name#reader}. There will be {food}. Yours ever, {h.name}
now the lamp is low, {name#reader}, and I must sleep. With love, {h.name}
give my greetings to the {trade} {where}. Your {trait#trait} {h.name}
that is all, dear {name#reader}. I hope the {thing} still works. Yours, {h.name}"""),
    "diary_head": _frames("""
from the [diary|notebook|journal] of {h.name}, {h.role}. {weekday}, the {ordinal} of {month}.
{weekday}, the {ordinal} of {month}. I write this {spot}, with a {thing} beside me.
notebook of {h.name}, page {number}. {weather@season}
{weekday} evening, {town#home}. I must write this down before [I forget it|the {drink} is \
cold|the lamp goes out]."""),
}

_SCENES = {
    "lose": _frames("""
{time}, {h} reached for {h.his} {thing#lost}, and it was gone
{h.s} {thing#lost} had always hung {where}; now the nail was bare
"where is my {thing#lost}?" {h.cried}. It was not {spot}, and it was not in the {place}
{h} had lost {h.his} {thing#lost}, the one that {h.his} {uncle} had brought from {town}
{time}, {h} noticed a hole in {h.his} bag. The {thing#lost} must have fallen out {where}
when {h} unpacked the {plural}, the {thing#lost} was missing
somebody, or something, had taken {h.s} {thing#lost} {time}
{h} had lent the {thing#lost} to nobody, and yet it was no longer {where}"""),
    "search": _frames("""
{h} looked {spot}, but found only {number} {plural}
{they} [searched|turned over|emptied] the {place}, and there was nothing but {plural} and dust
"perhaps it is {spot}," {f.said}{tag}. It was not
{f} crawled [about|around] {spot} and came back with a {thing} that belonged to a {trade}
{h} asked {a_trade} {where}. "I have seen {plural} and a {animal}," was the answer, "but no \
{thing#lost.head}."
{spot} there was a {thing}, but it was not the {thing#lost}
{time}, {they} looked for the {thing#lost.head} {where}, {while}
a {creature} watched {them} search {spot} and did not help"""),
    "a_trade": ("a {trade}", "a {trait} {trade}", "an old {trade}", "the {trade}"),
    "hint": _frames("""
{o} had seen something. "A {animal} carried it off," {o.said}{tag}. "Look {spot#hid}."
"I hear things," {o.said}{tag}. "Something fell {spot#hid} {time_past}."
there was a note from {o.obj}: "What you have lost is {spot#hid}."
"follow the {plural}," {o.said}{tag}, "and when they end, search {spot#hid}."
a row of {plural} led {path}. "They lead to the {spot#hid.head}," {o.said}{tag}
"lost things like the dark," {o.said}{tag}. "I would look {spot#hid}."
{time}, {h} met {o.obj}, who drew a [map|picture] in the dust. It showed a {spot#hid.head}
"last night I heard {sound}," {o.said}{tag}. "It came from {spot#hid}." """),
    "time_past": ("last night", "on {weekday}", "when the wind was high", "at dawn", "days ago"),
    "found": _frames("""
{h} [bent down|reached out|knelt], and there it was, {spot#hid}: the {thing#lost}
and truly, {spot#hid} lay the {thing#lost}, [wet|dusty|a little bent|safe and whole]
{f} saw it first. "The {thing#lost.head}!" {f.he} cried. It was {spot#hid}, just as {o} had said
{spot#hid} a {animal} had made its nest, and in the nest lay the {thing#lost}
{h} pushed aside {number} {plural}. The {thing#lost} was {spot#hid}, [cold|shining] in the dark
it took until {few} o'clock, but {spot#hid} {h.he} found the {thing#lost} at last
the {thing#lost} had been {spot#hid} all the time, under a heap of {plural}
something {colour} glittered {spot#hid}. ^{h} picked it up and held the {thing#lost} to {h.his} \
cheek"""),
    "errand": _frames("""
{o} was ill, and only a {plant} from {town#far} could help. "I will fetch it," {h.said}{tag}
{h} had promised {o.obj} to bring a {thing#cargo} to {town#far}, beyond the {wild#way}
one day {o} gave {h.obj} a {thing#cargo}. "Take it to {town#far}," {o.he} said, "through the \
{wild#way}."
{h} wanted to see {town#far} once in {h.his} life, although the {wild#way} lay between
news came that {h.his} {uncle} in {town#far} had asked for {h.obj}. The road led through the \
{wild#way}
a {trade} in {town#far} needed the {thing#cargo} before the {ordinal} of {month}, and {h} would \
bring it
"whoever crosses the {wild#way}," {o.said}, "finds {town#far}, and in {town#far} the finest \
{plural}."
there was a fair in {town#far}, and {h} had made {number} {plural} to sell there"""),
    "hardship": _frames("""
in the {wild#way} the path divided. ^{h} tossed a coin and went left, then right, then back
the {wild#way} was larger than on the map, and {time} {they} had no more {drink}
a fallen {spot_noun} blocked the way, and {they} had to climb {path}
{f} slipped, and {h} caught {f.him} by the sleeve. "Thank you," {f.he} said, pale as milk
fog came down over the {wild#way}. {they_cap} tied a rope from hand to hand and counted {plural}
a river crossed the road, and the only bridge had lost {number} planks
{h.his} boots [leaked|squeaked|pinched], and the {wild#way} went on and on
{time}, a {trade} with a {tool} warned {them}: "{fact_cap}, and the road ahead is gone."
something moved {spot}. It was a {animal}, even more {bad_mood} than {they} were"""),
    "fact_cap": ("^{fact}",),
    "arrive": _frames("""
{time}, {they} saw the roofs of {town#far}, {colour} and {colour} in the sun
at last the {wild#way} ended, and below lay {town#far} with its {adj} {place}
"{town#far}!" {f.cried}. {they_cap} ran the last mile {path}
in {town#far} a {trade} opened the gate and offered {them} {food}
{town#far} was smaller than {h} had thought, but it had {number} {place_pl} and {sound}
the bells of {town#far} rang as {they} came {path}
after the {wild#way}, {town#far} seemed to {h.obj} like a {thing} on a {colour} cloth"""),
    "place_pl": ("bridges", "towers", "markets", "gardens", "wells", "bakeries", "fountains"),
    "quarrel": _frames("""
{both@voice} quarrelled about a {thing#cause}. Each said that the other had broken it
"you always take the best {plural}!" {f.cried}. "And you never mend the {tool}!" {h.he} heard in \
reply
{f} had forgotten {h.his} birthday. ^{h} said nothing, but {h.he} shut the door with a bang
it began with the {thing#cause}. "It is mine," {h.said}. "It was never yours," {f.said}{tag}
{f} laughed at {h.his} {food}, and {h} called {f.him} a {trait} {animal}
{h} had told everyone a secret of {f.s}, about the {thing#cause} and the {place}
{f} had promised to help with the {plural}, but came {few} hours late and without the {tool}
"{fact_cap}," {f.said}. "It is not true," {h.said}, and by supper {they} were shouting"""),
    "apart": _frames("""
for {number} days {they} did not speak. {h} walked {path} alone
{h} took the long way {path} so as not to meet {f.obj}
{time}, {h} saw {f.obj} {where}, but both looked at the {plural}
without {f.him}, the {place} was only a {place}, and {food} had no taste
{h} wrote a letter and tore it up {few} times
{f} sat {spot}, {f.he} pretended to count {plural}
it is hard to play chess alone, and {h} lost {number} games to {h.self}
even the {creature} {where} seemed to miss the two of {them}"""),
    "mend": _frames("""
"I was wrong," {h.said}{tag}. "So was I," {f.said}. "I was wrong first, and louder."
{h} put the {thing#cause} on {f.s} doorstep with a note: "Better yours than nobody's."
{time}, both came to the {place} at the same moment, each with {food} in a basket. They had to laugh
"I miss you more than any {thing#cause.head}," {f.said}{tag}. ^{h} held out {h.his} hand
{f} stood in the rain {where} and said that {f.he} was sorry. ^{h} opened the door wide
"let us own the {thing#cause.head} together," {h.said}, "you on {weekday}, and I on {weekday}."
{h} mended the {thing#cause} with {stuff} and brought it to {f.obj}. It was crooked, but it held
a {creature} fell into the {place}, and it took both of {them} to save it. After that, nobody was \
cross"""),
    "contest": _frames("""
each {season} there was a riddle contest {where}, and the prize was a {thing#prize}
"whoever answers {few} riddles," {o.said}, "may keep this {thing#prize}."
{o} guarded the {place} and let nobody pass who could not answer a riddle
a {trade} from {town} had beaten everyone at riddles, and now asked for {h.obj}
{time}, a poster hung {where}: "Riddles tonight. First prize, a {thing#prize}. Second prize, \
{food}."
{h} had never won anything, but {h.he} wanted the {thing#prize} for {f.obj}"""),
    "riddle": _frames("""
"what has {few} {riddle_part} and never walks?" {o.asked}{tag}. {think} "A table," {h.answered}{tag}
"what grows when you take away from it?" {o.asked}. {think} "A hole," {h.answered}
"I have teeth, but I cannot bite {food}. What am I?" {o.asked}. {think} "A comb," {h.answered}{tag}
"what goes {path} and never moves?" {o.asked}{tag}. {think} "The road," {h.answered}
"who speaks every language and has no mouth?" {o.asked}. {think} "The echo," {h.answered}{tag}
"the more it dries, the wetter it gets," {o.said}. {think} "A towel," {h.answered}{tag}
"what can you keep only after you have given it?" {o.asked}{tag}. {think} "A promise," {h.answered}
"it follows you {path}, and goes to bed when the sun does," {o.said}. {think} "My shadow," \
{h.answered}
"I fall, but never hurt myself, and in {town} I cover the {plural}," {o.said}. {think} "Snow," \
{h.answered}
"what has a neck and no head?" {o.asked}{tag}. {think} "A bottle of {drink}," {h.answered}{tag}
"what runs past the {place} and has no legs?" {o.asked}. {think} "The river," {h.answered}
"it has hands and cannot hold a {tool}," {o.said}{tag}. {think} "A clock," {h.answered}"""),
    "riddle_part": ("legs", "feet", "wooden legs"),
    "think": _frames("""
{h} looked at the {plural} and thought of {food}.
it was so still that {h} heard {sound}.
{h} closed {h.his} eyes and saw a {thing}.
"{plural}?" somebody whispered, but {h} shook {h.his} head.
{h} thought of the {wild}, the {place}, and the {plural}.
{f} held {f.his} breath.
the crowd murmured {simile}.
{h} scratched {h.his} ear {few} times."""),
    "win": _frames("""
everybody clapped, and {o} laid the {thing#prize} in {h.his} {h.hands}
"you have earned it," {o.said}{tag}, and gave {h.obj} the {thing#prize}
{h} won the {thing#prize} and, {time}, gave it to {f.obj}
in the end {f} knew the last answer, and {they} shared the {thing#prize}
{h} did not win, but {o} was so pleased that {h.he} got the {thing#prize} all the same
{number} people lifted {h.obj} on their shoulders, and the {thing#prize} shone above the crowd"""),
    "plan": _frames("""
{h} wanted to build a {building#work} {where}. "Nobody has ever done that," {f.said}{tag}
{town#home} needed a new {building#work}, for the old one had been lost in a {season} storm
"with {stuff#s1} and {stuff#s2} we could make a {building#work}," {h.said}{tag}
{h} drew a {building#work} on the back of a recipe for {food} and showed it to {f.obj}
{time}, {h} dreamed of a {building#work}, {colour} from end to end, and woke with a plan
"build me a {building#work} before the {ordinal} of {month}," {o.said}, "and I will pay {number} \
{plural}."
{h} had promised the children of {town#home} a {building#work}"""),
    "gather": _frames("""
{stuff#s1} came from the {place}, and {stuff#s2} from a {trade} in {town}
{f} brought {stuff#s1}, and {h} carried {stuff#s2} {path}
they traded {number} {plural} for {stuff#s1}, and found {stuff#s2} {spot}
{a_trade_cap} lent {them} a {tool}, and another a {tool} without a handle
for {few} days {they} collected {stuff#s1}, {stuff#s2} and {stuff}
{o} had kept {stuff#s2} {where} for {number} years. "Take it," {o.said}{tag}"""),
    "a_trade_cap": ("^{a_trade}",),
    "labour": _frames("""
{h} held the {tool}, and {f} [hit|missed|dropped] the {tool}
{time}, the [left|right|upper|back] half of the {building#work} fell down {simile}
{they} worked from {few} o'clock until dark, {while}
the {stuff#s1} did not fit. {h} measured again, and cut, and measured again
"a {building#work} is like {food}," {o.said}{tag}. "One must not hurry it."
{f} painted one side {colour} and the other side {colour}
rain made the {stuff#s2} swell, and they had to begin anew with a {tool}
{number} {plural} were in the way, and a {animal} moved in before the roof was done"""),
    "done": _frames("""
{time}, the {building#work} was finished. It leaned a little, but it stood
at last the {building#work} was ready, with {number} {plural} painted on its side
{o} walked around the {building#work} {few} times. "It will last longer than I," {o.said}{tag}
the whole of {town#home} came to see the {building#work} and brought {food}
{both@voice} stood hand in hand before the {building#work}, tired and {good_mood}
nobody said a word. Then {a_trade} threw a hat in the air, and the {building#work} had its first \
guests"""),
    "stranger": _frames("""
{time}, {h} found {o.obj} {spot}, wet and [tired|shivering|hungry]
{o} came {path} with a broken {tool} and asked for {drink}
somebody knocked. {o_cap} stood at the door with {number} {plural} and no shoes
a cart had turned over {where}, and {o} sat beside it, [sighing|holding one knee|among the {plural}]
"I have no money," {o.said}{tag}, "and it is {number} miles to {town}."
{h} almost walked past {o.obj}, but {sound} made {h.obj} turn around"""),
    "o_cap": ("^{o}",),
    "help": _frames("""
{h} gave {o.obj} {food}, {drink} and the warm place by the stove
{h} repaired the {tool} with {stuff} and asked for nothing
"sit down," {h.said}{tag}. "There is {food} for two, if we cut it thin."
{f} fetched a {thing}, and {h} washed the mud from {o.s} coat
{h} had only one {thing#own}, but gave it to {o.obj} all the same
for {few} days {o} stayed and [told stories|carved a {wood_thing}|played with the {creature}]
{they} pulled the cart {path}, {simile}
"rest first, and explain later," {h.said}, and made a bed {where}"""),
    "reward": _frames("""
{time}, a parcel came from {town}. In it lay a {thing} and a card: "For the {food}. Yours, \
{o.name}."
when {h} was in trouble {where}, {number} months later, it was {o} who came to help
{o} turned out to be the best {trade} in the land, and built {h.obj} a {building}
"you did not ask who I was," {o.said}{tag}. "That is why I want you to have this {thing}."
in the morning the guest was gone, but {number} {plural} lay on the table in the shape of a star
{o} taught {h.obj} a song that keeps {plural} safe, and {h} sings it to this day"""),
    "storm_near": _frames("""
{time}, the sky over the {wild} turned the colour of {plural}
the {animal} {where} would not [eat|come out|be quiet], and {o} smelled the air. "A storm," {o.said}
wind tore the {plural} from the roof of the {place}
"bring in the {plural}!" {o.cried}. "It will be here before {few} o'clock."
first came a silence, then {sound}, and then the storm
clouds stood over {town#home} {simile}"""),
    "pet_home": _frames("""
{h} kept a {creature#pet}, and its bed was {spot#hid}
{spot#hid} slept a {creature#pet} that {h} had raised on {drink}
everyone thought of the {plural}, and {h} thought of the {creature#pet} {spot#hid}
"will the {creature#pet} be safe {spot#hid}?" {f.asked}{tag}
a {creature#pet} belonged to {h.obj}, and when it was afraid, it hid {spot#hid}"""),
    "storm_on": _frames("""
the storm threw {plural} against the {place} and bent the {spot_noun} to the ground
water ran {path}, and {number} {plural} floated on it
{h} remembered the {creature#pet} {spot#hid}. "I must get it!" {h.he} cried and ran out
lightning struck the {place}, and for a moment everything was white: the {plural}, the \
{spot_noun}, the road
{f} held the door shut with a {tool}, {while_storm}
the lamp went out. In the dark {they} sang about {plural} to keep up {their} courage
{h} tied the {plural} to the {spot_noun} with {stuff}
somebody called for help {where}; it was {a_trade} with {number} children"""),
    "while_storm": ("while the roof groaned", "and the wind howled", "until both arms ached"),
    "storm_end": _frames("""
toward morning the storm grew tired. The {creature#pet} was safe {spot#hid}, under a {colour} cloth
when it was over, the {place} had no roof, but nobody in {town#home} was hurt
{time}, the sun came out. {they_cap} found the {creature#pet} asleep {spot#hid}
all of {town#home} came with {tool_s} and {stuff} to repair the {place}
"we have lost {number} {plural}," {o.said}{tag}, "and kept everything that matters."
a rainbow stood over the {wild}, and the {creature#pet} shook the water from its {coat}"""),
    "tool_s": ("hammers", "ladders", "brooms", "buckets", "ropes", "shovels", "saws"),
    "coat": ("ears", "back", "head", "feet", "tail"),
    "trade_wish": _frames("""
{h} wanted the {thing#goal} {where} more than anything, but owned only a {thing#g1}
in the window of the {place} stood a {thing#goal}. ^{h} had no money, just a {thing#g1}
"I would sell the {thing#goal}," {o.said}{tag}, "but not for a {thing#g1}."
{f.s} birthday was near, and {f} dreamed of a {thing#goal}. {h} had nothing but a {thing#g1}
"bring me a {thing#g4}," {o.said}, "and the {thing#goal} is yours." But {h} had only a \
{thing#g1}"""),
    "trade_last": _frames("""
{o} took the {thing#g4}, looked at it {few} times, and handed over the {thing#goal}
"a {thing#g4}!" {o.cried}. "I have looked for one for {number} years. The {thing#goal} is yours."
so the {thing#g4} became the {thing#goal}, and it had all begun with a {thing#g1}
with the {thing#g4} under one arm {h} {moved} {path}, and came back with the {thing#goal}
{o} gave {h.obj} the {thing#goal} for the {thing#g4}, and {food} as well"""),
    "mystery": _frames("""
every night somebody took {plural#loot} from the {place#scene} and left a {thing#sign}
{time}, the {plural#loot} in the {place#scene} were gone. On the floor lay a {thing#sign}
something strange went on in the {place#scene}: the {plural#loot} moved by themselves, and there \
lay a {thing#sign}
"who has painted my {plural#loot} {colour}?" {o.cried}. A {thing#sign} lay {where}
at {few} o'clock each night a light burned in the {adj} {place#scene}, where nobody lived but \
{plural#loot}, and by day there lay a {thing#sign}
the {plural#loot} of {town#home} vanished, {number} on {weekday}, {number} on {weekday}, and a \
{thing#sign} was left behind"""),
    "clue": _frames("""
{h} examined the {thing#sign}. It smelled of {food#smell}, and there was a {colour} hair on it
there were small footprints {path}. "{number_cap} toes," {f.said}{tag}
"who eats {food#smell} at night?" {h.asked}{tag}. Nobody in the {place#scene} had an answer
{f} had heard {sound} at midnight, and then the squeak of the {spot#hid.head}
a {trade} swore that the {thing#sign} had once been sold in {town}
{h} wrote a list: a {thing#sign}, {food#smell}, {number} crumbs, and {sound}
a line of {plural#loot} pointed to something {spot#hid}"""),
    "number_cap": ("^{number}",),
    "watch": _frames("""
{time}, {they} hid {spot} and waited, {while}
{h} tied a bell to the {plural#loot} and pretended to sleep
{they} spread flour before the {place#scene} and sat down {spot}
"do not sneeze," {h.said}. {f} sneezed, but only once
with a lamp under a {cloth_thing}, {h} kept watch until {few} o'clock"""),
    "solved": _frames("""
it was a {creature#thief}! It had carried the {plural#loot} to its young, {spot#hid}
{spot#hid} sat {o}, who walked in sleep, with the {plural#loot} in a neat row
the thief was a {animal}. ^{spot#hid} it had built a palace of {plural#loot}
"it was I," {o.said}{tag}. "I wanted to surprise the children. The {plural#loot} are {spot#hid}."
a child stood there with {food#smell} in one hand. "I only wanted to feed the {creature#thief} \
{spot#hid}."
the wind had done it: through a hole {spot#hid} it rolled the {plural#loot} away, one by one"""),
    "letter_find": _frames("""
{time}, a letter came for {h.obj}. It had no stamp, and on the back was drawn a {thing#sign}
{h} found a letter {spot}. It was {number} years old and had never been opened
{f} brought a letter that the wind had carried {path}
between {food} and the {plural} lay an envelope, {colour} and sealed with wax
a {animal} dropped a letter {where}, right before {h.his} feet"""),
    "letter_text": _frames("""
"come to the {place#scene} at {few}," it said, "and bring a {thing#sign}. A friend."
it said only: "I am sorry about the {plural}. I will wait {spot#hid} every {weekday}."
"whoever reads this," it began, "may have what lies {spot#hid}. I have no use for it, I am too old."
"dear child," {h} read, "when the {plant} flowers, look {spot#hid}. Your {uncle}."
half of the words were washed away. ^{h} could read "{place#scene}", "{plural}" and "{spot#hid}." \
"""),
    "letter_true": _frames("""
^{spot#hid} stood {o}. "You came," {o.he} said. "I wrote that letter {number} years ago."
{h} went there with {f.obj}, and {spot#hid} they found a {thing}, wrapped in a {colour} \
{cloth_thing}
it was {o} who had written it, and {o.he} wept with {feeling} when {h} read it aloud
^{spot#hid} lay {number} more letters, one for every year, all full of {quality}
nobody was there, but {spot#hid} grew a {plant}, and on it hung a card with {h.s} name"""),
    "race": _frames("""
on the {ordinal} of {month}, all {town#home} ran from the {place#start} to the {place#goalpost}
"I can reach the {place#goalpost} before you," {f.said}{tag}. "With {number} {plural} on my back."
the winner of the great race to the {place#goalpost} would get a {thing#prize}
nobody thought that {h} could win the race from the {place#start}; {h.he} thought so least of all
{h} had practised {path} every morning, for the race to the {place#goalpost} was near"""),
    "race_on": _frames("""
{o} waved a {colour} flag, and {number} runners left the {place#start} {simile}
{f} was in front at the {place}, and {h} was only number {few}
{path}, {h} stumbled over {plural} and lost {few} places
the fastest runner stopped to eat {food}, and fell asleep {spot}
{h} took a breath, thought of {drink}, and ran {path} {simile}
a {creature} stood on the track. ^{h} stopped and carried it {path}, while the others ran by
"run like a {animal}!" {o.cried}{tag}. But the hill to the {place#goalpost} was as steep as a \
{spot_noun}"""),
    "race_end": _frames("""
{h} came to the {place#goalpost} first, by the length of a {thing}
{both@voice} crossed the line at the {place#goalpost} hand in hand
{h} was last, but the crowd at the {place#goalpost} cheered the loudest for {h.obj}
{f} won, and shared the prize with {h.obj}: half of the {food} and all of the {feeling}
nobody could say who had won, and so the prize was {food} for everybody at the {place#goalpost}"""),
    "seed": _frames("""
{o} gave {h.obj} a seed no bigger than a crumb. "It will be a {plant#tree}," {o.he} said, "if you \
wait."
{h} traded {number} {plural} for one seed of a {plant#tree}. "A bad bargain," {f.said}{tag}
in the pocket of an old coat {h} found a seed {spot}. "A {plant#tree}," {o.said}{tag}
{h} planted a {plant#tree} {spot#bed}, where nothing had ever grown but {plural}
"there has never been a {plant#tree} in {town#home}," {f.said}. "Then it is time," \
{h.said}{tag}"""),
    "tend": _frames("""
every day {h} carried water {path} to the little pot of earth {spot#bed}
{few} weeks passed, and nothing showed but a {plural_one} and some moss
a {animal} dug up the earth, and {h} built a fence of {stuff}
"talk to it," {o.said}{tag}. So {h} told the seed about {plural} and the {wild}
one morning a green tip, no longer than a {needle}, stood {spot#bed}
{f} laughed at first, but soon {f.he} came with a {tool} and {number} buckets
it did not rain for {number} days, and {h} gave the plant the last of the water
a storm broke {few} twigs, and {h} bound them with {stuff}"""),
    "plural_one": ("snail", "pebble", "feather", "button", "beetle", "worm"),
    "needle": ("needle", "thumb", "matchstick", "finger", "thimble", "spoon"),
    "bloom": _frames("""
{few} years later the {plant#tree} {spot#bed} was taller than the {place}
{time}, the {plant#tree} opened its first flower, {colour} as a {cloth_thing}
children played around the {plant#tree}, and a {animal} sang in its leaves
"you waited," {o.said}{tag}. The {plant#tree} bore fruit for everybody in {town#home}
from the seeds of the {plant#tree}, {both@voice} planted {number} more {where}"""),
    "pet_find": _frames("""
{time}, {h} heard {sound}. A {creature#pet} was caught {spot}
a {creature#pet} sat in the {place}, alone, with a hurt leg
{f} came with a basket. In it, under {plural}, lay a {creature#pet}
after the storm {h} found a {creature#pet} {spot}, no bigger than a {thing}
"it has lost its mother," {o.said}{tag}, and pointed to a {creature#pet} {where}"""),
    "pet_care": _frames("""
{h} fed the {creature#pet} with {drink} from a {metal} spoon
the {creature#pet} slept in a {cloth_thing} and [chewed|hid|scattered] the {plural}
"it needs warmth and {quality}," {o.said}{tag}
at night the {creature#pet} cried, and {h} sang to it about {plural}
{f} built a small house of {stuff} for the {creature#pet}
the {creature#pet} learned to follow {h.obj} {path}
{h} called the {creature#pet} {name_any#petname}, after a {trade} in {town}"""),
    "name_any": (
        "{name_female}",
        "{name_male}",
        "Button",
        "Pepper",
        "Biscuit",
        "Captain",
        "Thimble",
    ),
    "pet_free": _frames("""
{time}, the {creature#pet} was strong again. ^{h} opened the gate, and it ran {path}
"it belongs to the {wild}," {o.said}{tag}. ^{h} knew it, and let the {creature#pet} go
the {creature#pet} looked back once, {where}, and was gone. Each {season} it came to visit
the {creature#pet} stayed. The gate stood open, but it liked the {spot_noun} and {h.his} {food}
{few} months later {h} met a grown {creature#pet.head} near the {wild}, and it knew {h.obj} at \
once"""),
    "feast": _frames("""
{h} had to cook for {number} guests, and there was only {food} in the house
it was the feast of {plural} in {town#home}, and {h} was asked to make the {food#dish}
"nobody can make {food#dish} as my {uncle} did," {o.said}{tag}. "Will you try?"
{h} had promised {food#dish} for the wedding of {a_trade} and a {trade}
the king's cook was ill, and so {h} was sent to make {food#dish} {where}"""),
    "cooking": _frames("""
{h} stirred the {food#dish} with a {tool}, because there was no spoon
"more salt," {f.said}. "More {drink}," {o.said}. ^{h} added a little of both
the {food#dish} boiled over, ran {path}, and was eaten by a {animal}
{h} ran to {few} neighbours and came back with {number} {plural} and some {drink}
smoke filled the kitchen, {f} opened the window, and {plural} blew in
{h} tasted the {food#dish}. It was like nothing {h.he} had ever eaten, and not in a good way
the secret of {food#dish}, {o} said, is {quality} and a very hot stove
{time}, {h} began again, with {f.obj} holding the {tool}"""),
    "served": _frames("""
the guests ate the {food#dish} and were silent. Then {a_trade} asked for more
{o} tasted the {food#dish} and closed both eyes. "Like home," {o.he} said
the {food#dish} was burnt on one side, but {quality} made up for it
there was {food#dish} on every plate, {drink} in every cup, and {sound} in the air
nobody noticed that the {food#dish} was [green|square|a day late], for {f} told such good \
stories"""),
}

_TRADE_STEP = _frames("""
a {trade} {where} needed a {thing#OLD}, and gave {h.obj} a {thing#NEW} for it
{time}, {h} met a {trait} {trade}. "Is that a {thing#OLD}?" the {trade_word} asked. "Take my \
{thing#NEW}!"
{f} wanted the {thing#OLD} very much. "Here, have my {thing#NEW}," {f.he} said{tag}
for the {thing#OLD}, {a_trade} {where} offered {number} {plural}, and then a {thing#NEW}
"my {thing#NEW.head} for your {thing#OLD.head}," said {a_trade} with a {adj_face} face. They \
shook hands [{where}|over {drink}|{few} times]
{path}, {h} saw {a_trade} in need of a {thing#OLD.head}, and soon held a {thing#NEW}
nobody at the {place} had a {thing#OLD}, so {a_trade} was glad to give a {thing#NEW}""")


def _trade_step(old: str, new: str) -> tuple[str, ...]:
    return tuple(line.replace("OLD", old).replace("NEW", new) for line in _TRADE_STEP)


_CHAIN = {
    "swap1": _trade_step("g1", "g2"),
    "swap2": _trade_step("g2", "g3"),
    "swap3": _trade_step("g3", "g4"),
    "trade_word": ("owner", "other", "good soul"),
    "adj_face": ("round", "red", "solemn", "floury", "freckled", "sunburnt", "friendly"),
}

STOCKS = {**_NAMES, **_PEOPLE, **_WORDS, **_PHRASES, **_SCENES, **_CHAIN}

# A paragraph each; `?` marks an optional one, an inner tuple some paragraphs in any order.
_ASIDES = ("{told}", "{smalltalk} {weather@season}", "{rest} {smalltalk}", "{go} {rest}")
PLOTS: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "lost": (
        "{lose} {feel_bad}",
        ("{search} {search}", "{go} {search}", "{smalltalk} {search}"),
        "{hint}[ {smalltalk}|]",
        "?{told}",
        "{go}[ {weather@season}|]",
        "{found} {feel_good}",
    ),
    "journey": (
        "{errand} {smalltalk}",
        ("{go} {hardship}", "{hardship} {feel_bad}", *_ASIDES),
        "{hardship} {rest}",
        "{arrive} {feel_good}",
    ),
    "quarrel": (
        "{smalltalk} {quarrel}",
        "{feel_bad} {apart}",
        ("{apart} {go}", "{told} {feel_bad}"),
        "?{apart} {weather@season}",
        "{mend} {feel_good}",
    ),
    "riddles": (
        "{contest}[ {feel_bad}|]",
        "?{smalltalk} {go}",
        "{riddle}",
        "{riddle}",
        "?{told}",
        "?{riddle}",
        "{riddle} {win}",
    ),
    "building": (
        "{plan} {smalltalk}",
        "{gather} {gather}",
        ("{labour} {feel_bad}", "{labour} {rest}", "{labour} {smalltalk}", "{told}"),
        "{labour} {done}",
    ),
    "stranger": (
        "{weather@season} {stranger}",
        "{help} {smalltalk}",
        ("{told}", "{help} {rest}"),
        "?{go} {feel_bad}",
        "{reward} {feel_good}",
    ),
    "storm": (
        "{storm_near} {pet_home}",
        "?{go} {smalltalk}",
        "{storm_on} {feel_bad}",
        ("{storm_on} {smalltalk}", "{told}"),
        "?{storm_on}",
        "{storm_end} {feel_good}",
    ),
    "trade": (
        "{trade_wish} {feel_bad}",
        "{swap1}",
        "?{go} {smalltalk}",
        "{swap2}",
        "?{told}",
        "{go} {swap3}",
        "{trade_last} {feel_good}",
    ),
    "mystery": (
        "{mystery} {smalltalk}",
        "{clue} {go}",
        ("{clue} {smalltalk}", "{clue} {feel_bad}", "{told}"),
        "{watch}[ {feel_bad}|]",
        "{solved} {feel_good}",
    ),
    "letter": (
        "{letter_find} {letter_text}",
        "{feel_bad} {smalltalk}",
        ("{go} {rest}", "{told}", "{smalltalk} {go}"),
        "{letter_true} {feel_good}",
    ),
    "race": (
        "{race} {smalltalk}",
        "?{told}",
        "{race_on} {race_on}",
        "?{feel_bad} {race_on}",
        "{race_end} {feel_good}",
    ),
    "planting": (
        "{seed} {feel_bad}",
        ("{tend} {smalltalk}", "{tend} {tend}", "{told}"),
        "{tend} {rest}",
        "{bloom} {feel_good}",
    ),
    "creature": (
        "{go} {pet_find}",
        "{pet_care} {pet_care}",
        ("{told}", "{pet_care} {smalltalk}", "{rest} {feel_good}"),
        "{pet_free} {feel_bad}",
    ),
    "feast": (
        "{feast} {feel_bad}",
        "{cooking} {smalltalk}",
        ("{cooking} {cooking}", "{told}", "{go} {cooking}"),
        "{served} {feel_good}",
    ),
}
PINNED = {"planting": {"season": "spring"}}
