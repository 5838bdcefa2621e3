// Vectors of W floats: what AVX-512 and AVX2 have in common, and the two number types of the kernel.
//
// Every packed operand is made of 4-byte units, so that one register tile serves both types: a unit is one float,
// or a pair of neighbouring bfloat16 along the summed axis, which one instruction of AVX512-BF16 multiplies.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

#ifdef __AVX512F__
constexpr int W = 16;
#else
constexpr int W = 8;
#endif

typedef float F __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef uint16_t H __attribute__((vector_size(2 * W)));

template <class V>
INLINE V load(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class V>
INLINE void store(void* to, V value) {
    std::memcpy(to, &value, sizeof value);
}

// The first `count` lanes of a vector, zeros in the others; reads nothing behind them.
template <class V>
INLINE V part(const void* from, int count) {
    V value = {};
    std::memcpy(&value, from, count * (sizeof(V) / W));
    return value;
}

INLINE F fill(float value) { return value - F{}; }

INLINE I fill_unit(const int32_t* from) {
#ifdef __AVX512F__
    return (I)_mm512_set1_epi32(*from);
#else
    return (I)_mm256_set1_epi32(*from);
#endif
}

INLINE F choose(I mask, F yes, F no) { return (F)(((I)yes & mask) | ((I)no & ~mask)); }

// 2^x by a minimax polynomial on [0, 1); its relative error is 7e-8 (degree 5) or 7e-5 (degree 3, bfloat16's own
// rounding is 2e-3). Tiny instead of 0 below 2^-126 where AVX-512 is missing.
template <bool EXACT>
INLINE F exp2(F x) {
#ifdef __AVX512F__
    const F f = (F)_mm512_reduce_ps((__m512)x, 9);  // x - floor(x)
#else
    x = choose(x < -126.f, fill(-126.f), x);  // keeps a NaN
    const F whole = (F)_mm256_floor_ps((__m256)x);
    const F f = x - whole;
#endif
    F y;
    if constexpr (EXACT) {
        y = f * 0.0018775766733615596f + 0.008989340094732463f;
        y = y * f + 0.05582631805001738f;
        y = y * f + 0.24015361704534385f;
        y = y * f + 0.6931530732000745f;
        y = y * f + 0.9999999250635297f;
    } else {
        y = f * 0.07802452266443162f + 0.22606715539313071f;
        y = y * f + 0.6958335405064476f;
        y = y * f + 0.99992521856401f;
    }
#ifdef __AVX512F__
    return (F)_mm512_scalef_ps((__m512)y, (__m512)x);
#else
    return y * (F)((__builtin_convertvector(whole, I) + 127) << 23);
#endif
}

// log2(x) for x > 0: a first guess from the bits, then three Newton steps on the exp2 above, so that the two agree.
template <bool EXACT>
INLINE F log2(F x) {
    F y = __builtin_convertvector((I)x, F) * 0x1p-23f - 127.f;
    for (int step = 0; step < 3; ++step) y += (x * exp2<EXACT>(-y) - 1.f) * 1.44269504f;
    return y;
}

INLINE U rounded_bits(F x) {  // to nearest, ties to even; the upper halves are bfloat16
    return (U)x + 0x7fff + (((U)x >> 16) & 1);
}

INLINE float sum_of(F x) {
    float lanes[W];
    store(lanes, x);
    for (int step = W / 2; step; step /= 2)
        for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
    return lanes[0];
}

struct Full {
    typedef float T;
    static constexpr int PAIR = 1;
    static constexpr bool EXACT = true;

    // The first `count` lanes; zeros, or what was there, in the others.
    static INLINE F widen(const T* from, int count) {
#ifdef __AVX512F__
        return (F)_mm512_maskz_loadu_ps((1u << count) - 1, from);
#else
        return part<F>(from, count);
#endif
    }
    static INLINE void narrow(T* to, F value, int count) {
#ifdef __AVX512F__
        _mm512_mask_storeu_ps(to, (1u << count) - 1, (__m512)value);
#else
        std::memcpy(to, &value, 4 * count);
#endif
    }
    static INLINE F multiply(F sum, I a, I b) { return sum + (F)a * (F)b; }
};

struct Half {
    typedef uint16_t T;
    static constexpr int PAIR = 2;
    static constexpr bool EXACT = false;

    static INLINE F widen(const T* from, int count) {
#ifdef __AVX512F__
        const H bits = (H)_mm256_maskz_loadu_epi16((1u << count) - 1, from);
#else
        const H bits = part<H>(from, count);
#endif
        return (F)(__builtin_convertvector(bits, U) << 16);
    }
    static INLINE void narrow(T* to, F value, int count) {
#ifdef __AVX512BF16__
        const H bits = (H)_mm512_cvtneps_pbh((__m512)value);
#else
        const H bits = __builtin_convertvector(rounded_bits(value) >> 16, H);
#endif
#ifdef __AVX512F__
        _mm256_mask_storeu_epi16(to, (1u << count) - 1, (__m256i)bits);
#else
        std::memcpy(to, &bits, 2 * count);
#endif
    }
    static INLINE F multiply(F sum, I a, I b) {
#ifdef __AVX512BF16__
        return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
        const int32_t upper = int32_t(0xffff0000);
        return sum + (F)(a << 16) * (F)(b << 16) + (F)(a & upper) * (F)(b & upper);
#endif
    }
};

// A unit in each lane: (first, second) of each pair.
INLINE I pair(F first, F second) {
#ifdef __AVX512BF16__
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (I)_mm512_permutexvar_epi16(order, both);
#else
    return (I)((rounded_bits(first) >> 16) | (rounded_bits(second) & 0xffff0000u));
#endif
}

// Transpose W rows of W lanes in registers: at each stage lanes change places with rows a power of two away.
template <int STAGE>
INLINE void transpose_stage(F* rows) {
    I lower, upper;
    for (int lane = 0; lane < W; ++lane) {
        lower[lane] = lane & STAGE ? W + lane - STAGE : lane;
        upper[lane] = lane & STAGE ? W + lane : lane + STAGE;
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
        if (i & STAGE) continue;
        const F a = rows[i], b = rows[i + STAGE];
        rows[i] = __builtin_shuffle(a, b, lower);
        rows[i + STAGE] = __builtin_shuffle(a, b, upper);
    }
    if constexpr (STAGE > 1) transpose_stage<STAGE / 2>(rows);
}

INLINE void transpose(F* rows) { transpose_stage<W / 2>(rows); }
