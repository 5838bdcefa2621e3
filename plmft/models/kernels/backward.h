// Backward: keys across the lanes, queries in rows. Five products a tile: scores, weights' gradients, and the
// gradients of values, keys and queries; the first two are never stored, the others add up over tiles.
#pragma once

#include "tiles.h"

namespace {

// What the backward of one head holds; queries in rows, keys across the lanes.
struct Held {
    const int32_t *queries, *grads;                // rows of BACK_ROWS, for the scores and for the weights' gradient
    const int32_t *query_columns, *grad_columns;   // for the gradients of keys and values
    const int32_t *keys, *values, *key_columns;    // blocks of LANES; columns for the queries' gradient
    const float *lse, *delta;                      // one a query
    int32_t *weights, *slopes, *slope_rows;        // of one chunk of queries: (q / PAIR, LANES) twice, (q, LANES / PAIR)
    float *query_sums, *key_sums, *value_sums;     // (q, lanes), (columns, LANES) twice
};

// Weights and the scores' gradients (slopes) of BACK_ROWS queries against N * W keys, `valid` of which exist.
template <class S, int N>
INLINE void differentiate(const Held& h, int query, int at, const int32_t* keys, const int32_t* values, int steps,
                          float scale, int valid) {
    F weight[BACK_ROWS][N], slope[BACK_ROWS][N];
#pragma GCC unroll 4
    for (int r = 0; r < BACK_ROWS; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) weight[r][n] = slope[r][n] = F{};
    multiply<S, BACK_ROWS, N, 1>(weight, h.queries + int64_t(query) * steps, BACK_ROWS, keys, LANES, steps);
    multiply<S, BACK_ROWS, N, 1>(slope, h.grads + int64_t(query) * steps, BACK_ROWS, values, LANES, steps);
#pragma GCC unroll 4
    for (int r = 0; r < BACK_ROWS; ++r) {
        const F lse = fill(h.lse[query + r]), delta = fill(h.delta[query + r]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
            F w = exp2<S::EXACT>(weight[r][n] * scale - lse);
            if (valid < N * W) {  // a missing key's weight may overflow
                I lane;
                for (int i = 0; i < W; ++i) lane[i] = n * W + i;
                w = (F)((I)w & (lane < valid));
            }
            weight[r][n] = w;
            slope[r][n] = w * (slope[r][n] - delta);
        }
    }
    int32_t* row = h.slope_rows + at * (LANES / S::PAIR);
#pragma GCC unroll 4
    for (int r = 0; r < BACK_ROWS; ++r, row += LANES / S::PAIR)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) S::narrow(reinterpret_cast<typename S::T*>(row) + n * W, slope[r][n], W);
#pragma GCC unroll 4
    for (int r = 0; r < BACK_ROWS; r += S::PAIR)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
            const int64_t to = int64_t((at + r) / S::PAIR) * LANES + n * W;
            if constexpr (S::PAIR == 2) {
                store(h.weights + to, pair(weight[r][n], weight[r + 1][n]));
                store(h.slopes + to, pair(slope[r][n], slope[r + 1][n]));
            } else {
                store(h.weights + to, weight[r][n]);
                store(h.slopes + to, slope[r][n]);
            }
        }
}

// query_sums += slopes key_columns, for one chunk of queries and one block of keys.
template <class S, int N>
void add_queries(const Held& h, int query, int count, const int32_t* columns, int lanes) {
    constexpr int A_ROW = LANES / S::PAIR, STEPS = N * W / S::PAIR;
    for (int q = 0; q < count; q += ROWS) {
        const int32_t* slopes = h.slope_rows + q * A_ROW;
        float* sums = h.query_sums + int64_t(query + q) * lanes;
        int d = 0;
        for (; d + LANES <= lanes; d += LANES)
            accumulate<S, ROWS, 2, A_ROW>(sums + d, lanes, slopes, 1, columns + d, lanes, STEPS);
        if (d < lanes) accumulate<S, ROWS, 1, A_ROW>(sums + d, lanes, slopes, 1, columns + d, lanes, STEPS);
    }
}

// One block of N * W keys against all queries.
template <class S, int N>
void sweep(const Held& h, const Sizes& z, int key, int length, float scale) {
    std::memset(h.key_sums, 0, size_t(z.columns) * LANES * 4);
    std::memset(h.value_sums, 0, size_t(z.columns) * LANES * 4);
    const int32_t* keys = h.keys + int64_t(key) * z.steps;
    const int32_t* values = h.values + int64_t(key) * z.steps;
    for (int query = 0; query < length; query += CHUNK) {
        const int count = round_up(std::min(CHUNK, length - query), ROWS);
        for (int q = 0; q < count; q += BACK_ROWS)
            differentiate<S, N>(h, query + q, q, keys, values, z.steps, scale, length - key);
        const int64_t column = int64_t(query / S::PAIR) * z.columns;
        add_columns<S, N>(h.value_sums, h.grad_columns + column, z.columns, h.weights, count / S::PAIR);
        add_columns<S, N>(h.key_sums, h.query_columns + column, z.columns, h.slopes, count / S::PAIR);
        add_queries<S, N>(h, query, count, h.key_columns + int64_t(key / S::PAIR) * z.lanes, z.lanes);
    }
}

// delta = sum of grad * out, for each query; and its logarithm of the denominator. Missing queries weigh nothing.
template <class S>
void load_queries(const Problem& p, const Task& t, int padded, float* lse, float* delta) {
    typedef typename S::T T;
    const int width = p.width;
    const int64_t part = int64_t(p.heads) * width, at = t.start * part + int64_t(t.head) * width;
    const T *out = static_cast<const T*>(p.out) + at, *grad = static_cast<const T*>(p.grad) + at;
    for (int r = 0; r < t.length; ++r, out += part, grad += part) {
        F sum = {};
        for (int i = 0; i < width; i += W) {
            const int lanes = std::min(W, width - i);
            sum += S::widen(out + i, lanes) * S::widen(grad + i, lanes);
        }
        delta[r] = sum_of(sum);
    }
    std::memcpy(lse, p.lse + t.head * p.tokens + t.start, t.length * 4);
    std::fill(delta + t.length, delta + padded, 0.f);
    std::fill(lse + t.length, lse + padded, 1e4f);
}

template <class S>
void backward(const Problem& p, const Task& t, Scratch& scratch) {
    typedef typename S::T T;
    const Sizes z = Sizes::of<S>(p.width);
    const int width = p.width, padded = round_up(t.length, LANES);
    const int64_t step = int64_t(3) * p.heads * width, part = int64_t(p.heads) * width;
    const int64_t at = t.start * step + int64_t(t.head) * width;
    const T* from = static_cast<const T*>(p.qkv) + at;
    T* rows = scratch.take<T>(int64_t(padded + 1) * z.stride);
    const auto take_rows = [&] { return scratch.take<int32_t>(int64_t(padded) * z.steps); };
    const auto take_columns = [&](int lanes) { return scratch.take<int32_t>(int64_t(padded + 1) * lanes + W); };
    int32_t *queries = take_rows(), *grads = take_rows(), *keys = take_rows(), *values = take_rows();
    int32_t *query_columns = take_columns(z.columns), *grad_columns = take_columns(z.columns);
    int32_t* key_columns = take_columns(z.lanes);

    load_rows<S>(p, from, step, t.start, t.length, padded, p.cosine, rows, z.stride);
    pack_rows<S, BACK_ROWS>(rows, z.stride, padded, z.steps, queries);
    pack_columns<S>(rows, z.stride, padded, z.columns, query_columns);
    load_rows<S>(p, static_cast<const T*>(p.grad) + t.start * part + int64_t(t.head) * width, part, t.start,
                    t.length, padded, false, rows, z.stride);
    pack_rows<S, BACK_ROWS>(rows, z.stride, padded, z.steps, grads);
    pack_columns<S>(rows, z.stride, padded, z.columns, grad_columns);
    load_rows<S>(p, from + part, step, t.start, t.length, padded, p.cosine, rows, z.stride);
    pack_rows<S, LANES>(rows, z.stride, padded, z.steps, keys);
    pack_columns<S>(rows, z.stride, padded, z.lanes, key_columns);
    load_rows<S>(p, from + 2 * part, step, t.start, t.length, padded, false, rows, z.stride);
    pack_rows<S, LANES>(rows, z.stride, padded, z.steps, values);

    float *lse = scratch.take<float>(padded), *delta = scratch.take<float>(padded);
    load_queries<S>(p, t, padded, lse, delta);
    const Held h = {queries, grads, query_columns, grad_columns, keys, values, key_columns, lse, delta,
                    scratch.take<int32_t>(int64_t(CHUNK) * LANES), scratch.take<int32_t>(int64_t(CHUNK) * LANES),
                    scratch.take<int32_t>(int64_t(CHUNK) * LANES), scratch.take<float>(int64_t(padded) * z.lanes),
                    scratch.take<float>(int64_t(z.columns) * LANES), scratch.take<float>(int64_t(z.columns) * LANES)};
    float* turned = scratch.take<float>(int64_t(LANES) * z.lanes);
    std::memset(h.query_sums, 0, size_t(padded) * z.lanes * 4);
    T* to = static_cast<T*>(p.result) + at;
    for (int key = 0; key < t.length; key += LANES) {
        const int count = std::min(LANES, t.length - key);
        if (count > W)
            sweep<S, 2>(h, z, key, t.length, p.scale * LOG2_E);
        else
            sweep<S, 1>(h, z, key, t.length, p.scale * LOG2_E);
        turn_over(h.key_sums, z.columns, count, turned, z.lanes);
        store_rows<S>(p, turned, z.lanes, t.start + key, count, p.cosine, p.scale, to + key * step + part, step);
        turn_over(h.value_sums, z.columns, count, turned, z.lanes);
        store_rows<S>(p, turned, z.lanes, t.start + key, count, false, 1.f, to + key * step + 2 * part, step);
    }
    store_rows<S>(p, h.query_sums, z.lanes, t.start, t.length, p.cosine, p.scale, to, step);
}

}  // namespace
