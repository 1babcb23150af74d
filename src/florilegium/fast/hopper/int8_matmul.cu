// Training's matmuls on a Hopper GPU, with a frozen weight that is read as it is stored: int8, never dequantised in memory.
//
//     forward     out[t, n] = sum_k x[t, k] * weight[n, k]  (+ sum_r x[t, K + r] * lora_b[n, r])      x in PAIR_ORDER (unpack_kernel.py)
//     backward    out[t, k] = sum_n y[t, n] * weight[n, k]
//
// Reference: out = x[:, :K] @ weight.bfloat16().T + x[:, K:] @ lora_b.T      out = y @ weight.bfloat16()
// Layout: x, y, out bfloat16, rows any multiple of 16 bytes apart; weight int8 [N, K] row-major; lora_b bfloat16 [N, R].
//
// Dequantising a weight moves 3 bytes for each of its numbers, a fifth of a step on 16 quotes. Here int8 becomes bfloat16 in registers, 8
// instructions for four, while the matrix unit works on those before: of its two operands one may come from registers, and so it computes
// out^T = weight x^T. Two warpgroups make 64 outputs each for the same TOKENS tokens. The unit always has the next 64 rows of a warpgroup's
// sum waiting (two sets of registers take turns). One more thread has the copy engine fetch weight and activations STAGES times 64 rows
// ahead, over the border of tiles too. CLUSTER multiprocessors make neighbouring outputs for the same tokens: each fetches its part of the
// activations, for all of them. docs/kernels/hopper-int8.md draws a tile in time.
//
// Constants that int8_matmul.py sets: BACK; EPILOGUE (`finish` tells) and ORDER; R, the adapter's columns, a multiple of 8; TOKENS; STAGES;
// CLUSTER. Its `multiply` is the unit's own instruction. C++ of NVRTC, without headers.
//
// Barriers. Each of the STAGES slots of shared memory has two, and `step` (of 64 rows, counted over all tiles) uses slot step % STAGES for
// the (step / STAGES)-th time:
//     full     completed by the copy engine, once a use, when all bytes have arrived. The multipliers wait for its phase of parity
//              step / STAGES % 2.
//     empty    completed by 8 warps of each multiprocessor of the cluster, once a use, when the unit has read the slot. The fetcher waits
//              for parity step / STAGES % 2 ^ 1: of use u - 1. At use 0 there was none, and a fresh barrier counts as past parity 1.

constexpr u32 X_BYTES = TOKENS * 128, STAGE_BYTES = X_BYTES + 128 * 64, RESULT_BYTES = TOKENS * 128;

// Queues acc += (rows of a sum in registers, 16 a STEP) times (a stage's activations); the first product of a sum sets it.
// Reference: acc = acc * adds + a @ x.T
template <int STEPS = 4> INSIDE void multiply_rows(float (&acc)[TOKENS / 2], const u32 (&a)[16], u32 x, bool adds) {
    begin_products();
    // + 2 * s: 16 columns of bfloat16 are 32 bytes, and a descriptor counts in 16. The unit undoes the swizzle itself.
#pragma unroll
    for (int s = 0; s < STEPS; ++s) multiply(acc, a[4 * s], a[4 * s + 1], a[4 * s + 2], a[4 * s + 3], matrix_of(x) + 2 * s, adds || s);
    commit_products();
}

// Waits until all but the last LEFT of 64 rows are done; those before them were in `a`, whose registers are free then.
template <int LEFT> INSIDE void done_but(u32 (&a)[16]) {
    wait_for_products<LEFT>();
    // The unit reads registers behind the compiler's back. An empty instruction that "changes" them keeps the next conversion from being
    // moved up to where the unit still reads.
#pragma unroll
    for (int i = 0; i < 16; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

extern "C" __global__ void __launch_bounds__(384, 1) __cluster_dims__(CLUSTER, 1, 1)
wgmma_tiles(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap out,
            const __grid_constant__ TensorMap beside, const char *lora_b, const float *scales, const u32 *biases, float *parts, int *flags,
            int units, int shared, int tiles_t, int tiles) {
    extern __shared__ char memory[];
    // 1,024: the widest swizzle repeats after so many bytes, and copy engine and unit both take it from the address
    u32 stages = address(memory) + 1023 & ~1023, results = stages + STAGES * STAGE_BYTES;
    u32 full = results + 2 * RESULT_BYTES, empty = full + 8 * STAGES, slope_is_there = empty + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < STAGES; ++slot) {
            make_barrier(full + 8 * slot, 1);  // the fetcher's own arrival, with which it says how many bytes will come
            make_barrier(empty + 8 * slot, 8 * CLUSTER);  // warps: each fetcher writes x into all multiprocessors of the cluster
        }
        make_barrier(slope_is_there, 1);
        make_barrier(slope_is_there + 8, 1);
        barriers_are_made();
    }
    // nobody may signal a barrier of another multiprocessor before that one has made it
    if (CLUSTER > 1) meet_cluster();
    else __syncthreads();
    const int programs = gridDim.x / CLUSTER, program = blockIdx.x / CLUSTER, rank = blockIdx.x % CLUSTER;
    auto piece = [&](int number) { return piece_of(number, program, programs, units, shared, tiles); };
    auto place_here = [&](int tile) {
        Place place = place_of(tile, tiles_t, tiles / tiles_t);
        return Place{place.token, place.output + 128 * rank};
    };
    int step = 0;  // of 64 rows, in all pieces

    // The third warpgroup fetches, by one thread. Registers: 65,536 / 384 threads are 168 each at launch; the fetchers go down to 40, and
    // 128 * 40 + 256 * 232 = 64,512 fit. 232 hold the sums (TOKENS / 2, up to 128), two operands (32), and addresses; none spill.
    if (threadIdx.x >= 256) {
        give_registers<40>();  // all 128 threads must say so
        if (threadIdx.x > 256) return;
        auto next = [&](Place place, int row, bool coded) {
            int slot = step % STAGES;
            u32 bar = full + 8 * slot, to = stages + slot * STAGE_BYTES;
            wait(empty + 8 * slot, step / STAGES % 2 ^ 1);
            // before the fetches: bytes that arrive unexpected would complete the phase too early
            expect(bar, coded ? STAGE_BYTES : X_BYTES);
            if (CLUSTER == 1) fetch(x, to, bar, row, place.token);
            // each of the cluster brings its share of the tokens, to all; a full barrier counts the bytes of all shares
            else fetch_for_all(x, to + X_BYTES / CLUSTER * rank, bar, row, place.token + TOKENS / CLUSTER * rank, CLUSTER);
            if (coded) fetch(weight, to + X_BYTES, bar, BACK ? place.output : row, BACK ? row : place.output);
            ++step;
        };
        Piece now;
        for (int number = 0; (now = piece(number)).tile < tiles; ++number) {
            Place place = place_here(now.tile);
            for (int row = 128 * now.begin; row < 128 * now.end; row += 64) next(place, row, true);
            // the adapter's columns of x, by the program that makes the end of the sum; B comes through the cache (`adapter_operand`)
            for (int row = 128 * units; row < 128 * units + R && now.end == units; row += 64) next(place, row, false);
        }
        return;
    }

    take_registers<232>();
    const Thread me;
    results += RESULT_BYTES * me.group, slope_is_there += 8 * me.group;
    auto arrived = [&](int step) {
        wait(full + 8 * (step % STAGES), step / STAGES % 2);
        return stages + step % STAGES * STAGE_BYTES;
    };
    // One arrival of each warp at each multiprocessor of the cluster: lane i tells number i.
    auto release = [&](int step) {
        if (threadIdx.x % 32 < CLUSTER) arrive_at(empty + 8 * (step % STAGES), threadIdx.x % 32);
    };
    float acc[TOKENS / 2];
    u32 even[16], odd[16] = {};
    Piece now;
    for (int number = 0; (now = piece(number)).tile < tiles; ++number) {
        Place place = place_here(now.tile);
        if (EPILOGUE == TIMES_SLOPE && me.leads()) {
            // The slopes come while the sum is made, to where the results will be written over them; the last tile's must have left.
            puts_are_read<0>();
            expect(slope_is_there, RESULT_BYTES);
            for (int half = 0; half < 2; ++half)
                fetch(beside, results + half * (HALF * 128), slope_is_there, place.output + 64 * me.group, place.token + half * HALF);
        }
        // Not unrolled: the body is two steps already, one for each set of registers, and more of them would not fit the instruction cache.
#pragma unroll 1
        for (int unit = now.begin; unit < now.end; ++unit) {
            u32 stage = arrived(step);
            operand(even, stage + X_BYTES, me);  // converts while the unit works on `odd`
            multiply_rows(acc, even, stage, unit > now.begin);
            done_but<1>(odd);  // `odd` of the step before is through: its slot may be fetched over, and its registers written
            if (unit > now.begin) release(step - 1);
            stage = arrived(++step);
            operand(odd, stage + X_BYTES, me);
            multiply_rows(acc, odd, stage, true);
            done_but<1>(even);
            release(step++ - 1);
        }
        Outputs by(scales, biases, place.output + me.output());
        if constexpr (R > 0) if (now.end == units) {
#pragma unroll 1
            for (int r = 0; r < R; r += 64) {
                adapter_operand(even, lora_b + (size_t)place.output * R * 2, r, me);
                multiply_rows<R < 64 ? (R + 15) / 16 : 4>(acc, even, arrived(step), true);
                done_but<0>(even);
                release(step++ - 1);
            }
        }
        done_but<0>(odd);
#pragma unroll
        for (int i = 0; i < TOKENS / 2; ++i) asm volatile("" : "+f"(acc[i])::"memory");  // and the sums are there
        release(step - 1);
        if (EPILOGUE == STORE && now.end < units) {  // the other epilogues share no tiles
            leave(acc, parts, flags, me);
            continue;
        }
        if (EPILOGUE == STORE && now.begin > 0) gather(acc, first_of(now.tile, programs, units, shared), parts, flags, me);
        if (EPILOGUE == TIMES_SLOPE) wait(slope_is_there, number % 2);  // one phase a tile
        finish(acc, results, out, beside, by, place, me);
    }
    // Shared memory is the copy engine's source until its last byte has left.
    if (me.leads()) puts_are_done();
    if (CLUSTER > 1) meet_cluster();  // others may still say here that a stage is free
}
