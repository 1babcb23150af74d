// Training's products on a Hopper GPU, with a frozen weight that is read as it is stored: int8 codes, never made wide in memory.
//
//     forward     out[t, n] = sum_k x[t, k] * codes[n, k]  (+ sum_r x[t, K + r] * adapter[n, r])      x in lane order (codes_kernel.py)
//     backward    out[t, k] = sum_n y[t, n] * codes[n, k]
//
// Making a weight wide moves 3 bytes for each of its numbers, a fifth of a step on 16 quotes. Here codes become bfloat16 in registers, 8
// instructions for four, while the matrix unit works on those before: of its two operands one may come from registers, and so it computes
// out^T = codes x^T. Two warpgroups make 64 outputs each for the same TOKENS tokens. The unit always has the next 64 rows of a warpgroup's
// sum waiting (two sets of registers take turns). One more thread has the copy engine fetch codes and activations STAGES times 64 rows
// ahead, over the border of tiles too. CLUSTER multiprocessors make neighbouring outputs for the same tokens: each fetches its part of the
// activations, for all of them.
//
// Constants that wgmma.py sets: BACK; KIND and FORM (`finish` tells); R, the adapter's columns, a multiple of 8; TOKENS; STAGES; CLUSTER.
// Its `multiply` is the unit's own instruction. C++ of NVRTC, without headers.

constexpr u32 X_BYTES = TOKENS * 128, STAGE_BYTES = X_BYTES + 128 * 64, RESULT_BYTES = TOKENS * 128;

// Queues acc += (rows of a sum in registers, 16 a STEP) times (a stage's activations); the first product of a sum sets it.
template <int STEPS = 4> INSIDE void multiply_rows(float (&acc)[TOKENS / 2], const u32 (&a)[16], u32 x, bool adds) {
    begin_products();
#pragma unroll
    for (int s = 0; s < STEPS; ++s) multiply(acc, a[4 * s], a[4 * s + 1], a[4 * s + 2], a[4 * s + 3], matrix_of(x) + 2 * s, adds || s);
    commit_products();
}

// Waits until all but the last LEFT of 64 rows are done; those before them were in `a`, whose registers are free then.
template <int LEFT> INSIDE void done_but(u32 (&a)[16]) {
    wait_for_products<LEFT>();
#pragma unroll
    for (int i = 0; i < 16; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

extern "C" __global__ void __launch_bounds__(384, 1) __cluster_dims__(CLUSTER, 1, 1)
wgmma_tiles(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap codes, const __grid_constant__ TensorMap out,
            const __grid_constant__ TensorMap beside, const char *adapter, const float *scales, const u32 *biases, float *parts, int *flags,
            int units, int shared, int tiles_t, int tiles) {
    extern __shared__ char memory[];
    u32 stages = address(memory) + 1023 & ~1023, results = stages + STAGES * STAGE_BYTES;
    u32 full = results + 2 * RESULT_BYTES, empty = full + 8 * STAGES, slope_is_there = empty + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < STAGES; ++slot) {
            make_barrier(full + 8 * slot, 1);
            make_barrier(empty + 8 * slot, 8 * CLUSTER);  // warps
        }
        make_barrier(slope_is_there, 1);
        make_barrier(slope_is_there + 8, 1);
        barriers_are_made();
    }
    if (CLUSTER > 1) meet_cluster();
    else __syncthreads();
    const int programs = gridDim.x / CLUSTER, program = blockIdx.x / CLUSTER, rank = blockIdx.x % CLUSTER;
    auto piece = [&](int number) { return piece_of(number, program, programs, units, shared, tiles); };
    auto place_here = [&](int tile) {
        Place place = place_of(tile, tiles_t, tiles / tiles_t);
        return Place{place.token, place.output + 128 * rank};
    };
    int step = 0;  // of 64 rows, in all pieces

    if (threadIdx.x >= 256) {
        give_registers<40>();
        if (threadIdx.x > 256) return;
        auto next = [&](Place place, int row, bool coded) {
            int slot = step % STAGES;
            u32 bar = full + 8 * slot, to = stages + slot * STAGE_BYTES;
            wait(empty + 8 * slot, step / STAGES % 2 ^ 1);
            expect(bar, coded ? STAGE_BYTES : X_BYTES);
            if (CLUSTER == 1) fetch(x, to, bar, row, place.token);
            else fetch_for_all(x, to + X_BYTES / CLUSTER * rank, bar, row, place.token + TOKENS / CLUSTER * rank, CLUSTER);
            if (coded) fetch(codes, to + X_BYTES, bar, BACK ? place.output : row, BACK ? row : place.output);
            ++step;
        };
        Piece now;
        for (int number = 0; (now = piece(number)).tile < tiles; ++number) {
            Place place = place_here(now.tile);
            for (int row = 128 * now.begin; row < 128 * now.end; row += 64) next(place, row, true);
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
    auto release = [&](int step) {
        if (threadIdx.x % 32 < CLUSTER) arrive_at(empty + 8 * (step % STAGES), threadIdx.x % 32);
    };
    float acc[TOKENS / 2];
    u32 even[16], odd[16] = {};
    Piece now;
    for (int number = 0; (now = piece(number)).tile < tiles; ++number) {
        Place place = place_here(now.tile);
        if (KIND == 2 && me.leads()) {
            puts_are_read<0>();
            expect(slope_is_there, RESULT_BYTES);
            for (int half = 0; half < 2; ++half)
                fetch(beside, results + half * (HALF * 128), slope_is_there, place.output + 64 * me.group, place.token + half * HALF);
        }
#pragma unroll 1
        for (int unit = now.begin; unit < now.end; ++unit) {
            u32 stage = arrived(step);
            operand(even, stage + X_BYTES, me);
            multiply_rows(acc, even, stage, unit > now.begin);
            done_but<1>(odd);
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
                adapter_operand(even, adapter + (size_t)place.output * R * 2, r, me);
                multiply_rows<R < 64 ? (R + 15) / 16 : 4>(acc, even, arrived(step), true);
                done_but<0>(even);
                release(step++ - 1);
            }
        }
        done_but<0>(odd);
#pragma unroll
        for (int i = 0; i < TOKENS / 2; ++i) asm volatile("" : "+f"(acc[i])::"memory");  // and the sums are there
        release(step - 1);
        if (KIND == 0 && now.end < units) {  // the other kinds share no tiles
            leave(acc, parts, flags, me);
            continue;
        }
        if (KIND == 0 && now.begin > 0) gather(acc, first_of(now.tile, programs, units, shared), parts, flags, me);
        if (KIND == 2) wait(slope_is_there, number % 2);
        finish(acc, results, out, beside, by, place, me);
    }
    if (me.leads()) puts_are_done();
    if (CLUSTER > 1) meet_cluster();  // others may still say here that a stage is free
}
