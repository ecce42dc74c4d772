// Weight standardisation: each filter, a row of K numbers that lie together, to zero mean and unit variance.
#include "number.h"

#include <cmath>

namespace {

constexpr int64_t CHUNK = 2048;  // numbers whose sums are float; these are added up in double
constexpr int64_t WORK = 1 << 14;  // numbers that a thread takes at a time

template <class V>
struct Number {
    typedef V Vector;
};

// each(Number<V>, i) for all i of [begin, end), in vectors as far as they go.
template <class Each>
inline void over(int64_t begin, int64_t end, Each each) {
    for (; begin + LANES <= end; begin += LANES) each(Number<floats>{}, begin);
    for (; begin < end; ++begin) each(Number<float>{}, begin);
}

// Sum of of(Number<V>, i) for all i of [0, K).
template <class Of>
inline double sum_over(int64_t K, Of of) {
    double total = 0;
    for (int64_t begin = 0; begin < K; begin += CHUNK) {
        const int64_t end = begin + CHUNK < K ? begin + CHUNK : K;
        floats even{}, odd{};
        int64_t i = begin;
        for (; i + 2 * LANES <= end; i += 2 * LANES) {
            even += of(Number<floats>{}, i);
            odd += of(Number<floats>{}, i + LANES);
        }
        for (; i < end; ++i) total += of(Number<float>{}, i);
        total += sum_of(even + odd);
    }
    return total;
}

template <class T>
void row_forward(const float *w, T *to, float *mean, float *rstd, double eps, int64_t K) {
    const float average = float(sum_over(K, [=](auto n, int64_t i) {
        return load<typename decltype(n)::Vector>(w + i);
    }) / K);
    const double variance = sum_over(K, [=](auto n, int64_t i) {
        auto apart = load<typename decltype(n)::Vector>(w + i) - average;
        return apart * apart;
    }) / K;
    const float r = float(1 / std::sqrt(variance + eps));
    over(0, K, [=](auto n, int64_t i) {
        store(to + i, (load<typename decltype(n)::Vector>(w + i) - average) * r);
    });
    *mean = average;
    *rstd = r;
}

template <class T>
void forward(
    const float *const *weights, void *const *filters, float *const *means, float *const *rstds, const int64_t *rows,
    const int64_t *row_sizes, double eps, int64_t count, int64_t threads
) {
#pragma omp parallel num_threads(threads)
    for (int64_t t = 0; t < count; ++t) {
        const int64_t K = row_sizes[t], chunk = WORK / K + 1;
        T *to = (T *)filters[t];
#pragma omp for schedule(dynamic, chunk) nowait
        for (int64_t o = 0; o < rows[t]; ++o)
            row_forward(weights[t] + o * K, to + o * K, means[t] + o, rstds[t] + o, eps, K);
    }
}

// The gradient of a row; `total` is scratch, what arrives now and what was gathered before.
template <class T>
void row_backward(
    const T *g, const float *gathered, const float *w, float average, float r, float *dw, float *total, int64_t K
) {
    over(0, K, [=](auto n, int64_t i) {
        typedef typename decltype(n)::Vector V;
        V now = load<V>(g + i);
        if (gathered) now += load<V>(gathered + i);
        store(total + i, now);
    });
    const float sum = float(sum_over(K, [=](auto n, int64_t i) {
        return load<typename decltype(n)::Vector>(total + i);
    }) / K);
    const float dot = float(sum_over(K, [=](auto n, int64_t i) {
        typedef typename decltype(n)::Vector V;
        return load<V>(total + i) * (load<V>(w + i) - average);
    }) / K * r * r);
    over(0, K, [=](auto n, int64_t i) {
        typedef typename decltype(n)::Vector V;
        store(dw + i, (load<V>(total + i) - sum - (load<V>(w + i) - average) * dot) * r);
    });
}

template <class T>
void backward(
    const T *g, const float *gathered, const float *w, const float *mean, const float *rstd, float *dw, int64_t rows,
    int64_t K, int64_t threads
) {
    const int64_t chunk = WORK / K + 1;
#pragma omp parallel num_threads(threads)
    {
        float *total = new float[K];
#pragma omp for schedule(dynamic, chunk)
        for (int64_t o = 0; o < rows; ++o)
            row_backward(g + o * K, gathered ? gathered + o * K : nullptr, w + o * K, mean[o], rstd[o], dw + o * K,
                         total, K);
        delete[] total;
    }
}

}  // namespace

extern "C" {

void standardise_forward(
    int is_bfloat16, const float *const *weights, void *const *filters, float *const *means, float *const *rstds,
    const int64_t *rows, const int64_t *row_sizes, double eps, int64_t count, int64_t threads
) {
    auto *run = is_bfloat16 ? forward<bfloat16> : forward<float>;
    run(weights, filters, means, rstds, rows, row_sizes, eps, count, threads);
}

void standardise_backward(
    int is_bfloat16, const void *g, const float *gathered, const float *w, const float *mean, const float *rstd,
    float *dw, int64_t rows, int64_t row_size, int64_t threads
) {
    if (is_bfloat16)
        backward((const bfloat16 *)g, gathered, w, mean, rstd, dw, rows, row_size, threads);
    else
        backward((const float *)g, gathered, w, mean, rstd, dw, rows, row_size, threads);
}

}  // extern "C"
