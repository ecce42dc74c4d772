// Numbers as tensors hold them, float or bfloat16, and as they are computed with: float, one or sixteen at a time.
#pragma once
#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

struct bfloat16 {
    uint16_t bits;
};

constexpr int64_t LANES = 16;
// Compilers make of these what the processor has.
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

template <class To, class From>
inline To as(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

// load<float> or load<floats>, of either type.
template <class V>
inline V load(const float *from) {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <class V>
inline V load(const bfloat16 *from);
template <>
inline float load<float>(const bfloat16 *from) {
    return as<float>(uint32_t(from->bits) << 16);
}
template <>
inline floats load<floats>(const bfloat16 *from) {
    halves bits;
    std::memcpy(&bits, from, sizeof bits);
    return as<floats>(__builtin_convertvector(bits, words) << 16);
}

inline void store(float *to, float value) { *to = value; }
inline void store(float *to, floats value) { std::memcpy(to, &value, sizeof value); }
// To the nearest, ties to even; NaN stays NaN.
inline void store(bfloat16 *to, float value) {
    uint32_t bits = as<uint32_t>(value);
    to->bits = uint16_t(value != value ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline void store(bfloat16 *to, floats value) {
#ifdef __AVX512BF16__
    auto rounded = _mm512_cvtneps_pbh(as<__m512>(value));
    std::memcpy(to, &rounded, sizeof rounded);
#else
    words bits = as<words>(value);
    words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    words is_nan = as<words>(value != value);
    halves result = __builtin_convertvector((is_nan & 0x7fc0u) | (~is_nan & rounded), halves);
    std::memcpy(to, &result, sizeof result);
#endif
}

// `value` where `pre` is above 0, else 0. NaN passes, as in torch.
inline float relu(float pre, float value) { return pre <= 0 ? 0 : value; }
inline floats relu(floats pre, floats value) { return as<floats>(~as<words>(pre <= 0) & as<words>(value)); }

inline float sum_of(floats value) {
    float sum = 0;
    for (int64_t i = 0; i < LANES; ++i) sum += value[i];
    return sum;
}

template <class V>
constexpr int64_t lanes = sizeof(V) / sizeof(float);
