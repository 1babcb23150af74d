// Who makes what. A program runs on a cluster of multiprocessors; its tiles are 128 * CLUSTER outputs for TOKENS tokens, and a tile's sum
// `units` of 128 rows.

struct Piece { int tile, begin, end; };  // a tile, and the part of its sum, from which unit to which

// Piece `number` of program `me`. The first `shared` tiles are cut among all programs evenly, the rest is made tile by tile. A program
// begins with the end of its share: of a tile that several programs make the last one puts the parts together, and those before it made
// theirs first.
INSIDE Piece piece_of(int number, int me, int programs, int units, int shared, int tiles) {
    // The shared tiles' sums laid end to end, [shared * units], are cut in `programs` equal stretches; this one's is first .. last.
    int first = me * (shared * units) / programs, last = (me + 1) * (shared * units) / programs;
    int top = (last - 1) / units, cut = shared > 0 ? top - first / units + 1 : 0;
    // after its stretch, whole tiles: every programs-th
    if (number >= cut) return {shared + me + (number - cut) * programs, 0, units};
    // from the end: the part of `top` that a later program finishes is left before anything is waited for (`gather`)
    int tile = top - number, begin = first - tile * units, end = last - tile * units;
    return {tile, begin > 0 ? begin : 0, end < units ? end : units};
}

// The first program whose share holds a part of a tile.
INSIDE int first_of(int tile, int programs, int units, int shared) { return ((tile * units + 1) * programs - 1) / (shared * units); }

struct Place { int token, output; };

// A tile's first token and output. Tiles that are at work together share 8 tiles of tokens, so that those stay in the L2 cache.
INSIDE Place place_of(int tile, int tiles_t, int tiles_o) {
    // within a group tokens change fastest: 8 neighbours in time read the same outputs' weight, and the group's x stays
    int group = tile / (8 * tiles_o) * 8, inside = tile % (8 * tiles_o);
    int size = tiles_t - group < 8 ? tiles_t - group : 8;
    return {(group + inside % size) * TOKENS, inside / size * 128 * CLUSTER};
}
