// Adaptive gradient clipping and the SGD update of many tensors: a unit, a row of K numbers that lie together, is read
// once for the norms of its weights and gradient, and is still in cache when it is updated.
#include "number.h"

#include <cmath>

namespace {

constexpr int64_t CHUNK = 2048;  // numbers whose squares are added up before that goes to double
constexpr int64_t WORK = 1 << 14;  // numbers that a thread takes at a time
constexpr double WEIGHT_NORM_FLOOR = 1e-3, GRADIENT_NORM_FLOOR = 1e-6;

struct Settings {
    double clipping, lr, momentum, weight_decay;
    int64_t nesterov;
};

template <class T>
double squared_norm(const T *x, int64_t K) {
    double total = 0;
    for (int64_t begin = 0; begin < K; begin += CHUNK) {
        const int64_t end = begin + CHUNK < K ? begin + CHUNK : K;
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = begin; i < end; ++i) sum += x[i] * x[i];
        total += sum;
    }
    return total;
}

template <class T>
void update(T *__restrict w, const T *__restrict g, T *__restrict m, T scale, const Settings &set, int64_t K) {
    const T lr = T(set.lr), momentum = T(set.momentum), decay = T(set.weight_decay);
    if (!m) {
#pragma omp simd
        for (int64_t i = 0; i < K; ++i) w[i] -= lr * (g[i] * scale + decay * w[i]);
    } else if (set.nesterov) {
#pragma omp simd
        for (int64_t i = 0; i < K; ++i) {
            const T step = g[i] * scale + decay * w[i];
            m[i] = momentum * m[i] + step;
            w[i] -= lr * (step + momentum * m[i]);
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < K; ++i) {
            m[i] = momentum * m[i] + (g[i] * scale + decay * w[i]);
            w[i] -= lr * m[i];
        }
    }
}

template <class T>
int64_t step(
    void *const *weights, void *const *gradients, void *const *momenta, const int64_t *rows, const int64_t *row_sizes,
    const Settings &set, double *squares, int64_t count, int64_t threads
) {
    int64_t clipped = 0;
#pragma omp parallel num_threads(threads) reduction(+ : clipped)
    for (int64_t t = 0, unit = 0; t < count; unit += rows[t++]) {
        const int64_t K = row_sizes[t], chunk = WORK / (K > 0 ? K : 1) + 1;
        T *w = (T *)weights[t], *m = momenta ? (T *)momenta[t] : nullptr;
        const T *g = (const T *)gradients[t];
#pragma omp for schedule(dynamic, chunk) nowait
        for (int64_t o = 0; o < rows[t]; ++o) {
            T *row = w + o * K;
            const T *its = g + o * K;
            const double square = squared_norm(its, K), norm = std::sqrt(square);
            double scale = 1;
            if (set.clipping > 0) {
                const double weight_norm = std::sqrt(squared_norm(row, K));
                const double limit = set.clipping * (weight_norm < WEIGHT_NORM_FLOOR ? WEIGHT_NORM_FLOOR : weight_norm);
                if (norm > limit) {
                    scale = limit / (norm < GRADIENT_NORM_FLOOR ? GRADIENT_NORM_FLOOR : norm);
                    ++clipped;
                }
            }
            squares[unit + o] = square;
            update(row, its, m ? m + o * K : nullptr, T(scale), set, K);
        }
    }
    return clipped;
}

}  // namespace

extern "C" {

// Returns how many units were clipped; `squares` gets the squared norm of each unit's gradient.
int64_t sgd_agc_step(
    int is_double, void *const *weights, void *const *gradients, void *const *momenta, const int64_t *rows,
    const int64_t *row_sizes, double clipping, double lr, double momentum, double weight_decay, int64_t nesterov,
    double *squares, int64_t count, int64_t threads
) {
    const Settings set{clipping, lr, momentum, weight_decay, nesterov};
    auto *run = is_double ? step<double> : step<float>;
    return run(weights, gradients, momenta, rows, row_sizes, set, squares, count, threads);
}

}  // extern "C"
