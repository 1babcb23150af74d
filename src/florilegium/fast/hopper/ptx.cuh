// What a Hopper GPU does that C++ has no words for: a line of PTX each (PTX ISA 9, "mbarrier", "cp.async.bulk.tensor", "wgmma").
// Addresses are 32 bits wide and in shared memory.

typedef unsigned int u32;
typedef unsigned long long u64;
struct alignas(64) TensorMap { char bytes[128]; };  // a tensor as the copy engine knows it
#define INSIDE __device__ __forceinline__

INSIDE u32 address(const void *place) { return (u32)__cvta_generic_to_shared(place); }

// Barriers that count arrivals and bytes. A phase ends when all arrivals are there and all expected bytes; phases have parities 0, 1, 0, ...
// in turn. A wait for parity p goes on once the phase that is under way has the other parity, so on a fresh barrier a wait for 1 does at once.
INSIDE void make_barrier(u32 barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
INSIDE void barriers_are_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// One arrival, and so many bytes for the phase to wait for.
INSIDE void expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
INSIDE void arrive_at(u32 barrier, int rank) {  // that of a multiprocessor of the cluster
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(barrier), "r"(rank) : "memory");
}
INSIDE void wait(u32 barrier, u32 parity) {
    asm volatile("{ .reg .pred over;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
                 "@!over bra again; }" ::"r"(barrier), "r"(parity) : "memory");
}

// The copy engine (TMA): boxes of a matrix, their first column and row given. What lies beyond the matrix comes as zeros and is not written.
INSIDE void fetch(const TensorMap &matrix, u32 to, u32 barrier, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 ::"r"(to), "l"(&matrix), "r"(barrier), "r"(column), "r"(row) : "memory");
}
// The same into the same place of all multiprocessors of a cluster, each of which has a barrier there.
INSIDE void fetch_for_all(const TensorMap &matrix, u32 to, u32 barrier, int column, int row, int cluster) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
                 " [%0], [%1, {%3, %4}], [%2], %5;"
                 ::"r"(to), "l"(&matrix), "r"(barrier), "r"(column), "r"(row), "h"((unsigned short)((1 << cluster) - 1)) : "memory");
}
INSIDE void put(const TensorMap &matrix, u32 from, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];\n"
                 "cp.async.bulk.commit_group;" ::"l"(&matrix), "r"(from), "r"(column), "r"(row) : "memory");
}
template <int LEFT> INSIDE void puts_are_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory"); }
INSIDE void puts_are_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
INSIDE void writes_are_seen() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }  // by the copy engine

// The matrix unit works for a warpgroup, four warps, in the order of its commits.
// The fence: registers that threads wrote are the unit's from here on.
INSIDE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INSIDE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> INSIDE void wait_for_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// Rows of 128 bytes as the copy engine leaves them under its widest swizzle: the unit's second operand. The descriptor's bits (PTX ISA,
// "Matrix Descriptor"; addresses and distances in 16 bytes): 0-13 the address; 16-29 the leading distance, not used under this swizzle (1);
// 32-45 from 8 rows to the next 8, 8 * 128 bytes; 62-63 the swizzle, 1 for 128 bytes. Its base must lie at a multiple of 1,024 bytes.
INSIDE u64 matrix_of(u32 rows) { return (u64)(rows >> 4 & 0x3FFF) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62; }
// Registers of a warpgroup, given back and taken: multiples of 8. Taking waits until enough were given.
template <int COUNT> INSIDE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT> INSIDE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }
INSIDE void meet(int group) { asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory"); }  // the threads of a warpgroup

// Clusters: multiprocessors that reach one another's shared memory.
INSIDE void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

INSIDE u32 load(u32 place) {
    u32 word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(place) : "memory");
    return word;
}
INSIDE uint4 load_four(u32 place) {
    uint4 words;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w) : "r"(place));
    return words;
}
// Four matrices of 8 rows by 16 bytes, of which lane 8 m + i gives row i of matrix m. Lane 4 r + j gets of each column r, rows 2 j and
// 2 j + 1, a column being 16 bits.
INSIDE uint4 load_columns(u32 row) {
    uint4 words;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w) : "r"(row));
    return words;
}
INSIDE void store(u32 place, u32 word) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(place), "r"(word) : "memory"); }

// Flags between multiprocessors. Release and acquire: who sees a flag up sees what was written before it was raised.
INSIDE void raise(int *flag) { asm volatile("st.release.gpu.global.b32 [%0], 1;" ::"l"(flag) : "memory"); }
INSIDE void lower(int *flag) { asm volatile("st.relaxed.gpu.global.b32 [%0], 0;" ::"l"(flag) : "memory"); }
INSIDE bool is_up(const int *flag) {
    int up;
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(up) : "l"(flag) : "memory");
    return up;
}

// Two numbers side by side in bfloat16, the first in the low half.
struct Pair { float first, second; };
INSIDE u32 rounded(float first, float second) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}
INSIDE Pair wide(u32 pair) { return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000)}; }
INSIDE float tanh_of(float x) {  // off by up to 2^-11, a quarter of what rounding to bfloat16 is
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
