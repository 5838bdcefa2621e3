// Forward: queries across the lanes, keys in rows, so that the softmax's sums need no shuffling.
#pragma once

#include <cmath>

#include "tiles.h"

namespace {

template <class S, int N>
INLINE void scores_of(F (&sum)[ROWS][N], const int32_t* keys, const int32_t* queries, int steps) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[r][n] = F{};
    multiply<S, ROWS, N, 1>(sum, keys, ROWS, queries, LANES, steps);
}

// Largest score of each query, times `scale`.
template <class S, int N>
void find_maxima(const int32_t* keys, int length, const int32_t* queries, int steps, float scale, F (&maxima)[N]) {
    for (F& maximum : maxima) maximum = fill(-INFINITY);
    for (int key = 0; key < length; key += ROWS) {
        F sum[ROWS][N];
        scores_of<S, N>(sum, keys + int64_t(key) * steps, queries, steps);
        for (int r = 0; r < std::min(ROWS, length - key); ++r)
            for (int n = 0; n < N; ++n) {
                const F score = sum[r][n] * scale;
                maxima[n] = choose(maxima[n] < score, score, maxima[n]);  // a NaN shows in the weights
            }
    }
}

// Weights of keys first to last into (keys / PAIR, LANES) units, and their sums.
template <class S, int N>
void weigh(const int32_t* keys, int first, int last, const int32_t* queries, int steps, float scale,
           const F (&maxima)[N], F (&total)[N], int32_t* weights) {
    for (int key = first; key < last; key += ROWS) {
        F sum[ROWS][N];
        scores_of<S, N>(sum, keys + int64_t(key) * steps, queries, steps);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sum[r][n] = exp2<S::EXACT>(sum[r][n] * scale - maxima[n]);
        if (key + ROWS > last) {
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r)
                if (key + r >= last)
                    for (int n = 0; n < N; ++n) sum[r][n] = F{};
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r += S::PAIR, weights += LANES)
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) {
                total[n] += sum[r][n];
                if constexpr (S::PAIR == 2) {
                    total[n] += sum[r + 1][n];
                    store(weights + n * W, pair(sum[r][n], sum[r + 1][n]));
                } else {
                    store(weights + n * W, sum[r][n]);
                }
            }
    }
}

struct Operands {
    const int32_t *queries, *keys, *values;
    bool safe;
};

// N * W queries against all keys: sums (columns, LANES), divided, and the logarithms of the denominators.
template <class S, int N>
void attend(const Operands& x, const Sizes& z, int length, float scale, float* sums, int32_t* weights, float* lse) {
    F maxima[N] = {}, total[N] = {};
    if (!x.safe) find_maxima<S, N>(x.keys, length, x.queries, z.steps, scale, maxima);
    std::memset(sums, 0, size_t(z.columns) * LANES * 4);
    for (int key = 0; key < length; key += CHUNK) {
        const int last = std::min(length, key + CHUNK);
        weigh<S, N>(x.keys, key, last, x.queries, z.steps, scale, maxima, total, weights);
        add_columns<S, N>(sums, x.values + int64_t(key / S::PAIR) * z.columns, z.columns, weights,
                          round_up(last - key, ROWS) / S::PAIR);
    }
    for (int n = 0; n < N; ++n) {
        const F inverse = 1.f / total[n];
        for (int d = 0; d < z.columns; ++d) {
            float* at = sums + d * LANES + n * W;
            store(at, load<F>(at) * inverse);
        }
        if (lse) store(lse + n * W, maxima[n] + log2<S::EXACT>(total[n]));
    }
}

template <class S>
void forward(const Problem& p, const Task& t, Scratch& scratch) {
    typedef typename S::T T;
    const Sizes z = Sizes::of<S>(p.width);
    const int width = p.width, queries = t.last - t.first;
    const int keys = round_up(t.length, LANES), padded = round_up(queries, LANES);
    const int64_t step = int64_t(3) * p.heads * width, part = int64_t(p.heads) * width;
    const T* from = static_cast<const T*>(p.qkv) + t.start * step + int64_t(t.head) * width;
    T* rows = scratch.take<T>(int64_t(keys + 1) * z.stride);
    int32_t* key_rows = scratch.take<int32_t>(int64_t(keys) * z.steps);
    int32_t* value_columns = scratch.take<int32_t>(int64_t(keys + 1) * (z.columns + W));
    int32_t* query_rows = scratch.take<int32_t>(int64_t(padded) * z.steps);

    load_rows<S>(p, from + 2 * part, step, t.start, t.length, keys, false, rows, z.stride);
    pack_columns<S>(rows, z.stride, keys, z.columns, value_columns);
    load_rows<S>(p, from + part, step, t.start, t.length, keys, p.cosine, rows, z.stride);
    const float key_norm = pack_rows<S, ROWS>(rows, z.stride, keys, z.steps, key_rows);
    load_rows<S>(p, from + t.first * step, step, t.start + t.first, queries, padded, p.cosine, rows, z.stride);
    const float query_norm = pack_rows<S, LANES>(rows, z.stride, padded, z.steps, query_rows);

    const float scale = p.scale * LOG2_E;
    const bool safe = std::fabs(scale) * std::sqrt(key_norm) * std::sqrt(query_norm) < SAFE;
    float* sums = scratch.take<float>(int64_t(z.columns) * LANES);
    float* out = scratch.take<float>(int64_t(LANES) * z.lanes);
    int32_t* weights = scratch.take<int32_t>(int64_t(CHUNK) * LANES);
    float* lse = p.lse ? scratch.take<float>(LANES) : nullptr;
    for (int q = 0; q < queries; q += LANES) {
        const Operands x = {query_rows + int64_t(q) * z.steps, key_rows, value_columns, safe};
        const int count = std::min(LANES, queries - q);
        if (count > W)
            attend<S, 2>(x, z, t.length, scale, sums, weights, lse);
        else
            attend<S, 1>(x, z, t.length, scale, sums, weights, lse);
        turn_over(sums, z.columns, count, out, z.lanes);
        const int64_t token = t.start + t.first + q;
        store_rows<S>(p, out, z.lanes, token, count, false, 1.f,
                         static_cast<T*>(p.result) + token * part + int64_t(t.head) * width, part);
        if (lse) std::memcpy(p.lse + t.head * p.tokens + token, lse, count * 4);
    }
}

}  // namespace
