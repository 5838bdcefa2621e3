// What a task is given, and the way between the model's rows and the kernel's packed operands.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

#include "vectors.h"

namespace {

struct Problem {
    const void *qkv, *out, *grad;  // (T, 3*H*D), (T, H*D), (T, H*D)
    void *result;                  // forward: (T, H*D); backward: (T, 3*H*D)
    float* lse;                    // (H, T), base 2
    const float *cosine, *sine;    // (T, D/2) or null
    int64_t tokens;
    int heads, width;
    float scale;
};

struct Task {
    int64_t start;
    int length, head, first, last;  // queries first to last
};

constexpr int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

// Memory of one thread, kept between calls: fresh pages would cost more than some heads.
class Scratch {
   public:
    void begin() { used_ = 0; }

    // `units` 4-byte units, aligned to a cache line. What was there before is still there.
    template <class V>
    V* take(int64_t units) {
        const size_t bytes = (size_t(units) * 4 + 63) / 64 * 64;
        if (used_ == blocks_.size()) blocks_.push_back({nullptr, 0});
        Block& block = blocks_[used_++];
        if (block.bytes < bytes) {
            std::free(block.at);
            block = {std::aligned_alloc(64, bytes), bytes};
            if (!block.at) {
                block.bytes = 0;
                throw std::bad_alloc();
            }
        }
        return static_cast<V*>(block.at);
    }

    ~Scratch() {
        for (Block& block : blocks_) std::free(block.at);
    }

   private:
    struct Block {
        void* at;
        size_t bytes;
    };
    std::vector<Block> blocks_;
    size_t used_ = 0;
};

// A row turned by its position's angle: pairs (x_i, x_{i+D/2}). `sign` -1 turns it back.
template <class S>
INLINE void turn(const Problem& p, int64_t token, float sign, const F& a, const F& b, int i, int count, typename S::T* to) {
    const int half = p.width / 2;
    const F c = Full::widen(p.cosine + token * half + i, count), s = Full::widen(p.sine + token * half + i, count) * sign;
    S::narrow(to + i, a * c - b * s, count);
    S::narrow(to + half + i, b * c + a * s, count);
}

// Rows of one head, rotated or not, `stride` values apart, and zeros up to `padded` rows.
template <class S>
void load_rows(const Problem& p, const typename S::T* from, int64_t step, int64_t token, int rows, int padded,
               bool rotate, typename S::T* to, int stride) {
    const int half = p.width / 2;
    for (int r = 0; r < rows; ++r, from += step, to += stride) {
        __builtin_prefetch(from + 8 * step);  // rows lie far apart; a prefetch behind the end does no harm
        if (!rotate) {
            std::memcpy(to, from, p.width * sizeof *to);
            continue;
        }
        for (int i = 0; i < half; i += W) {
            const int count = std::min(W, half - i);
            turn<S>(p, token + r, 1.f, S::widen(from + i, count), S::widen(from + half + i, count), i, count, to);
        }
    }
    std::memset(to, 0, size_t(padded - rows) * stride * sizeof *to);
}

// Rows of float32 to one head's rows of a result, times `factor`, rotated back or not.
template <class S>
void store_rows(const Problem& p, const float* from, int stride, int64_t token, int rows, bool rotate, float factor,
                typename S::T* to, int64_t step) {
    const int half = p.width / 2;
    for (int r = 0; r < rows; ++r, from += stride, to += step) {
        for (int i = 0; rotate && i < half; i += W) {
            const int count = std::min(W, half - i);
            turn<S>(p, token + r, -1.f, Full::widen(from + i, count) * factor,
                    Full::widen(from + half + i, count) * factor, i, count, to);
        }
        for (int i = 0; !rotate && i < p.width; i += W)
            S::narrow(to + i, load<F>(from + i) * factor, std::min(W, p.width - i));
    }
}

// (rows, steps) units to (rows / BLOCK, steps, BLOCK): the summed axis runs within each row. Returns the largest
// squared norm of a row.
template <class S, int BLOCK>
float pack_rows(const typename S::T* from, int stride, int rows, int steps, int32_t* to) {
    constexpr int N = BLOCK < W ? BLOCK : W;
    F largest = {};
    for (int row = 0; row < rows; row += W) {
        F norm = {};
        for (int s0 = 0; s0 < steps; s0 += W) {
            F tile[W];
            for (int i = 0; i < W; ++i) tile[i] = load<F>(from + (row + i) * stride + s0 * S::PAIR);
            transpose(tile);
            for (int s = s0; s < std::min(steps, s0 + W); ++s) {
                const F units = tile[s - s0];
                norm = S::multiply(norm, (I)units, (I)units);
                for (int part = 0; part < W; part += N) {
                    const int at = row + part;
                    std::memcpy(to + (int64_t(at / BLOCK) * steps + s) * BLOCK + at % BLOCK,
                                reinterpret_cast<const float*>(&units) + part, 4 * N);
                }
            }
        }
        largest = choose(norm <= largest, largest, norm);  // keeps a NaN
    }
    float most = 0;
    for (int i = 0; i < W; ++i) most = largest[i] <= most ? most : largest[i];
    return most;
}

// (rows, width) values to (rows / PAIR, padded) units: the summed axis runs over rows.
template <class S>
void pack_columns(const typename S::T* from, int stride, int rows, int padded, int32_t* to) {
    for (int row = 0; row < rows; row += S::PAIR, from += S::PAIR * stride, to += padded)
        for (int i = 0; i < padded; i += W) {
            I unit;
            if constexpr (S::PAIR == 2) {
                const U low = __builtin_convertvector(load<H>(from + i), U);
                const U high = __builtin_convertvector(load<H>(from + stride + i), U);
                unit = (I)(low | high << 16);
            } else {
                unit = load<I>(from + i);
            }
            store(to + i, unit);  // may run over into the next row, which is written later
        }
}

}  // namespace
