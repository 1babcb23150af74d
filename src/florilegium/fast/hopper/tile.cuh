// What the threads of int8_matmul.cu do with a tile: int8 becomes the matrix unit's first operand, sums become results.
//
// A warpgroup makes 64 outputs for TOKENS tokens. Of each 16 outputs a warp's lane 4 r + j (j from 0 to 3) has two rows of the operand,
// which are outputs 2 r and 2 r + 1 here, so that its results are neighbours in memory: for each i, and p = 0 and 1, those of token
// 8 i + 2 j + p.

// What becomes of a tile's sums (`finish`); int8_matmul.py has the same names.
constexpr int STORE = 0, GELU = 1, TIMES_SLOPE = 2, SLOPE = 3, PAIR_ORDER = 4;
constexpr bool NEEDS_GELU = EPILOGUE == GELU || EPILOGUE == SLOPE;

constexpr float ROOT = 0.79788456f;  // sqrt(2 / pi)

struct Thread {
    int group, warp, r, j;  // the warpgroup, 0 or 1, and the warp in it
    INSIDE Thread() : group(threadIdx.x / 128), warp(threadIdx.x / 32 % 4), r(threadIdx.x % 32 / 4), j(threadIdx.x % 4) {}
    INSIDE bool leads() const { return threadIdx.x % 128 == 0; }
    INSIDE int output() const { return 64 * group + 16 * warp + 2 * r; }  // the first of its two, in the tile
};

// Two int8 as bfloat16, exactly: bytes 0 and 2 of a word.
// Reference: (word & 0xFF).view(int8), (word >> 16 & 0xFF).view(int8) -> bfloat16
// With 0x43 above it the low seven bits of a code are 128 more than they are worth,
// and the sign bit is worth 128 more: 128 or 256.
INSIDE u32 two(u32 word) {
    u32 low, sign, codes;
    // lop3's table 0xEA is (a & b) | c: mask and the constant's exponent in one instruction; 0xBF80 is -1
    asm("lop3.b32 %0, %1, 0x007f007f, 0x43004300, 0xEA;" : "=r"(low) : "r"(word));
    asm("lop3.b32 %0, %1, 0x00800080, 0x43004300, 0xEA;" : "=r"(sign) : "r"(word));
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(codes) : "r"(sign), "r"(0xBF80BF80), "r"(low));  // low - sign
    return codes;
}

// 64 rows of the sum of a stage's weight, as the unit wants them: of each 16, the first row's and the second row's columns 2 j and 2 j + 1,
// and 8 + 2 j and 9 + 2 j.
INSIDE void operand(u32 (&a)[16], u32 codes, const Thread &me) {
    if (!BACK) {  // [128 outputs, 64 columns]: a lane's 16 of a row lie side by side, which is why x comes in PAIR_ORDER
#pragma unroll
        for (int second = 0; second < 2; ++second) {
            int row = me.output() + second;
            // Rows of 64 bytes under the 64-byte swizzle: a row's chunk j of 16 bytes lies at j ^ (row / 2 % 4). So the 8 lanes that read
            // at once, which are 2 rows apart in 4 chunks, meet all 32 banks.
            uint4 four = load_four(codes + row * 64 + ((me.j ^ (row / 2 % 4)) << 4));
            u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                // bytes 0, 1, 2, 3 are columns h0p0, h0p1, h1p0, h1p1; `two` takes bytes 0 and 2, so 1 and 2 change places
                u32 word = __byte_perm(words[s], 0, 0x3120);
                a[4 * s + second] = two(word);
                a[4 * s + 2 + second] = two(word >> 8);
            }
        }
    } else {  // [64 rows, 128 outputs]: ldmatrix transposes pairs of outputs as if each were one number of 16 bits
        int lane = threadIdx.x % 32, chunk = me.output() / 16;
#pragma unroll
        for (int s = 0; s < 4; s += 2) {
            // rows of 128 bytes under the 128-byte swizzle: chunk c of row r lies at c ^ r % 8
            uint4 four = load_columns(codes + (16 * s + lane) * 128 + ((chunk ^ lane % 8) << 4));
            u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                // of a pair's bytes the even ones are output 2 r, the odd ones 2 r + 1
                a[4 * s + 2 * i] = two(words[i]);
                a[4 * s + 2 * i + 1] = two(words[i] >> 8);
            }
        }
    }
}

// 64 of the adapter's R columns as the first operand, `rows` being those of this tile's outputs.
INSIDE void adapter_operand(u32 (&a)[16], const char *rows, int from, const Thread &me) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        // register i: step i / 4 of 16 columns, upper 8 of them where i / 2 is odd, output 2 r + i % 2
        int column = from + i / 4 * 16 + i / 2 % 2 * 8 + 2 * me.j;
        // R is a multiple of 8, so a pair of columns is inside or outside as one; 0 times what x holds there is 0
        a[i] = column < R ? *(const u32 *)(rows + ((size_t)(me.output() + i % 2) * R + column) * 2) : 0;
    }
}

// Where a thread's results for token 2 j + p lie among its warpgroup's, [TOKENS, 64] under the widest swizzle; those of 8 tokens on lie
// 1,024 bytes on. In PAIR_ORDER the columns are those that the next matmul reads together.
INSIDE u32 spot(u32 results, int p, const Thread &me, bool pair_order) {
    // Two neighbouring outputs are 4 bytes; outputs of a warp are 32 bytes in their own order, and 4 bytes of each 16 in PAIR_ORDER.
    int token = 2 * me.j + p, byte = pair_order ? me.r * 16 + me.warp * 4 : me.warp * 32 + me.r * 4;
    // The 128-byte swizzle again. token % 8 would do, and token, less than 8 here, is that.
    return results + token * 128 + ((byte / 16 ^ token) << 4) + byte % 16;
}

// GELU of raw * scale + bias, and its slope by raw.
// Reference: x = raw * scale + bias; value = F.gelu(x, approximate="tanh"); slope = torch.autograd.grad(value, x) * scale
// r = (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3): gelu(x) = x r,
// gelu'(x) = r + 2 x r (1 - r) u'(x). While a tile's numbers pass here the unit waits, so there are few instructions and only one for the
// slow unit; and the slope is made here, where it shares them, and kept for the way back in place of the raw number.
struct Gelu {
    float value, slope;
    INSIDE Gelu(float raw, float scale, float bias) {
        float x = fmaf(raw, scale, bias), s = x * x;
        float r = fmaf(tanh_of(fmaf(s, ROOT * 0.044715f, ROOT) * x), 0.5f, 0.5f);
        value = x * r;
        slope = fmaf(fmaf(-value, r, value), fmaf(s, 2 * ROOT * 3 * 0.044715f, 2 * ROOT), r) * scale;
    }
};

// Its outputs' scales and biases, of which GELU alone has a use: asked for before a tile's sums are done.
struct Outputs {
    Pair scale, bias;
    INSIDE Outputs(const float *scales, const u32 *biases, int output)
        : scale(NEEDS_GELU ? Pair{scales[output], scales[output + 1]} : Pair{}), bias(NEEDS_GELU ? wide(biases[output / 2]) : Pair{}) {}
};

// Results leave in two halves, of half the tokens each, and so while one is made and the other is read. A warpgroup sends a half once all
// its threads wrote theirs.
constexpr int HALF = TOKENS / 2;
INSIDE void send(const TensorMap &to, u32 results, int half, Place place, const Thread &me) {
    // The copy engine reads shared memory by another way than threads write it: each thread makes its writes visible, then all meet.
    writes_are_seen();
    meet(me.group);
    if (me.leads()) put(to, results + half * (HALF * 128), place.output + 64 * me.group, place.token + half * HALF);
}
// Where all halves but the last LEFT that were sent lay is room.
template <int LEFT> INSIDE void room(const Thread &me) {
    if (me.leads()) puts_are_read<LEFT>();
    meet(me.group);
}

// What becomes of a tile's sums. STORE: they are written. GELU: its slope by them is, and `beside` gets gelu(sum * scale + bias), in ORDER;
// SLOPE: the slope alone. TIMES_SLOPE: they are multiplied by the slope, which `results` hold of `beside`.
INSIDE void finish(float (&acc)[TOKENS / 2], u32 results, const TensorMap &out, const TensorMap &beside, const Outputs &by, Place place,
                   const Thread &me) {
    u32 spots[2] = {spot(results, 0, me, false), spot(results, 1, me, false)}, values[TOKENS / 4];
    if (EPILOGUE != TIMES_SLOPE) room<0>(me);  // there the fetch of the slopes waited for it
#pragma unroll
    for (int i = 0; i < TOKENS / 4; ++i) {
        u32 there = spots[i % 2] + i / 2 * 1024;
        // of the unit's result a thread holds, for 8 tokens, {output 2 r, 2 r + 1} x {token 2 j, 2 j + 1}: outputs are 2 registers apart
        float first = acc[i / 2 * 4 + i % 2], second = acc[i / 2 * 4 + 2 + i % 2];
        if (NEEDS_GELU) {
            Gelu one(first, by.scale.first, by.bias.first), other(second, by.scale.second, by.bias.second);
            values[i] = rounded(one.value, other.value);
            first = one.slope;
            second = other.slope;
        }
        if (EPILOGUE == TIMES_SLOPE) {
            Pair slope = wide(load(there));
            first *= slope.first;
            second *= slope.second;
        }
        store(there, rounded(first, second));
        if (i % (HALF / 4) == HALF / 4 - 1) send(out, results, i / (HALF / 4), place, me);
    }
    if constexpr (EPILOGUE == GELU) {
        // GELU goes out after its slope, through the same buffer, half by half as the copy engine gives room.
        u32 active[2] = {spot(results, 0, me, ORDER == PAIR_ORDER), spot(results, 1, me, ORDER == PAIR_ORDER)};
#pragma unroll
        for (int i = 0; i < TOKENS / 4; ++i) {
            if (i % (HALF / 4) == 0) room<1>(me);
            store(active[i % 2] + i / 2 * 1024, values[i]);
            if (i % (HALF / 4) == HALF / 4 - 1) send(beside, results, i / (HALF / 4), place, me);
        }
    }
}

// Parts of tiles that programs leave for one another, [TOKENS / 2, 128 threads] a warpgroup, and their flags, which are down between
// launches.
INSIDE void leave(const float (&acc)[TOKENS / 2], float *parts, int *flags, const Thread &me) {
    int mine = 2 * blockIdx.x + me.group;
    float *there = parts + (size_t)mine * (64 * TOKENS) + threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < TOKENS / 2; ++i) there[i * 128] = acc[i];
    // all threads have written before the leader's release store, which then publishes what all of them wrote
    meet(me.group);
    if (me.leads()) raise(flags + mine);
}

// Adds what programs from `first` on, before this one, made of the tile, in their order: the same bits every time.
//
// It cannot deadlock. Only lower-numbered programs are waited for, and each of them makes its part of a tile that others finish FIRST
// (`piece_of` begins with the end of a share), without waiting for anyone. They are at work, or have been: there are no more programs than
// run at a time (`_programs`), and multiprocessors begin them in their order.
INSIDE void gather(float (&acc)[TOKENS / 2], int first, const float *parts, int *flags, const Thread &me) {
    for (int from = 2 * (first * CLUSTER + blockIdx.x % CLUSTER) + me.group; from < 2 * blockIdx.x; from += 2 * CLUSTER) {
        if (me.leads())
            while (!is_up(flags + from)) {}
        meet(me.group);
        // by the L2 cache: this multiprocessor's own may hold an earlier launch's part
        const float *there = parts + (size_t)from * (64 * TOKENS) + threadIdx.x % 128;
#pragma unroll
        for (int i = 0; i < TOKENS / 2; ++i) acc[i] += __ldcg(there + i * 128);
        // after the last read of the part: the next launch finds all flags down and may write there
        meet(me.group);
        if (me.leads()) lower(flags + from);
    }
}
