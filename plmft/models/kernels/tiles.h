// Products of packed operands, one register tile at a time, and the sizes of everything.
#pragma once

#include "operands.h"

namespace {

constexpr int LANES = 2 * W;           // queries or keys across the lanes of one tile
constexpr int ROWS = W == 16 ? 8 : 4;  // rows of a tile; with LANES they fill the registers
constexpr int BACK_ROWS = ROWS / 2;    // the backward holds two tiles at once
constexpr int CHUNK = 128;             // keys (forward) or queries (backward) whose weights are kept, in the first cache
constexpr float SAFE = 80;             // 2^SAFE times any number of tokens is far from overflow
constexpr float LOG2_E = 1.44269504f;

struct Sizes {
    int steps, stride, columns, lanes;  // units of a head's width; values of a row; padded widths
    template <class S>
    static Sizes of(int width) {
        const int steps = round_up(width, S::PAIR) / S::PAIR;
        return {steps, round_up(steps, W) * S::PAIR, round_up(width, 4), round_up(width, W)};
    }
};

// sum[r][n] += a[r][step] * b[step][n], `a` broadcast, `b` across the lanes.
template <class S, int R, int N, int A_ROW>
INLINE void multiply(F (&sum)[R][N], const int32_t* a, int64_t a_step, const int32_t* b, int64_t b_step, int steps) {
    for (int step = 0; step < steps; ++step, a += a_step, b += b_step) {
        I across[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) across[n] = load<I>(b + n * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const I one = fill_unit(a + r * A_ROW);
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sum[r][n] = S::multiply(sum[r][n], one, across[n]);
        }
    }
}

// The same with the sums in memory.
template <class S, int R, int N, int A_ROW>
INLINE void accumulate(float* sums, int64_t stride, const int32_t* a, int64_t a_step, const int32_t* b, int64_t b_step,
                       int steps) {
    F sum[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[r][n] = load<F>(sums + r * stride + n * W);
    multiply<S, R, N, A_ROW>(sum, a, a_step, b, b_step, steps);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) store(sums + r * stride + n * W, sum[r][n]);
}

// (padded, LANES) += columnsᵀ weights, over `steps` units of rows.
template <class S, int N>
void add_columns(float* sums, const int32_t* columns, int padded, const int32_t* weights, int steps) {
    int d = 0;
    for (; d + ROWS <= padded; d += ROWS)
        accumulate<S, ROWS, N, 1>(sums + d * LANES, LANES, columns + d, padded, weights, LANES, steps);
    for (; d < padded; d += 4)
        accumulate<S, 4, N, 1>(sums + d * LANES, LANES, columns + d, padded, weights, LANES, steps);
}

// (padded, LANES) sums, lanes across tokens, to (LANES, stride) rows.
void turn_over(const float* sums, int padded, int lanes, float* rows, int stride) {
    for (int lane = 0; lane < lanes; lane += W)
        for (int d = 0; d < padded; d += W) {
            F tile[W];
            for (int i = 0; i < W; ++i) tile[i] = d + i < padded ? load<F>(sums + (d + i) * LANES + lane) : F{};
            transpose(tile);
            for (int i = 0; i < W; ++i) store(rows + (lane + i) * stride + d, tile[i]);
        }
}

}  // namespace
