// Who makes what. A program runs on a cluster of multiprocessors; its tiles are 128 * CLUSTER outputs for TOKENS tokens, and a tile's sum
// `units` of 128 rows.

struct Piece { int tile, begin, end; };  // a tile, and the part of its sum, from which unit to which

// Piece `number` of program `me`. The first `shared` tiles are cut among all programs evenly, the rest is made tile by tile. A program
// begins with the end of its share: of a tile that several programs make the last one puts the parts together, and those before it made
// theirs first.
INSIDE Piece piece_of(int number, int me, int programs, int units, int shared, int tiles) {
    int first = me * (shared * units) / programs, last = (me + 1) * (shared * units) / programs;
    int top = (last - 1) / units, cut = shared > 0 ? top - first / units + 1 : 0;
    if (number >= cut) return {shared + me + (number - cut) * programs, 0, units};
    int tile = top - number, begin = first - tile * units, end = last - tile * units;
    return {tile, begin > 0 ? begin : 0, end < units ? end : units};
}

// The first program whose share holds a part of a tile.
INSIDE int first_of(int tile, int programs, int units, int shared) { return ((tile * units + 1) * programs - 1) / (shared * units); }

struct Place { int token, output; };

// A tile's first token and output. Tiles that are at work together share 8 tiles of tokens, so that those stay in the L2 cache.
INSIDE Place place_of(int tile, int tiles_t, int tiles_o) {
    int group = tile / (8 * tiles_o) * 8, inside = tile % (8 * tiles_o);
    int size = tiles_t - group < 8 ? tiles_t - group : 8;
    return {(group + inside % size) * TOKENS, inside / size * 128 * CLUSTER};
}
