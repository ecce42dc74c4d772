// GroupNorm + ReLU over activations [N, rows = H * W, C].
//
// A unit of work is one sample and as many whole groups as stay in a core's L2 cache from the first pass over them,
// which takes the sums, to the second, which applies them: memory is read once. Rows are taken four at a time, so that
// what is kept per channel is loaded once for four. No sum depends on how the work is cut or on the number of threads.
#include "number.h"

#include <cmath>
#include <unistd.h>

namespace {

constexpr int64_t FLUSHED = 128;  // rows whose sums are float; these are added up in double

template <class T>
struct Pair {  // an activation and what is added to it or its gradient, if anything
    const T *x, *other;
};

// What is the same for all rows of a unit, for each of its channels.
struct Channels {
    float *mean, *scale, *first, *second;
    const float *bias;
};

// The functions below do some work for the channels [c, c + lanes<V>) of R rows.

// Sums of (x - mean) and of its square, with a guess of the mean; x + residual is kept where there is a residual.
template <class V, int64_t R, bool ADDS, class T>
inline void add_moments(Pair<T> in, T *total, int64_t stride, int64_t c, const Channels &of) {
    const V guess = load<V>(of.mean + c);
    V sum = load<V>(of.first + c), square = load<V>(of.second + c);
    for (int64_t at = c, r = 0; r < R; ++r, at += stride) {
        V x = load<V>(in.x + at);
        if (ADDS) {
            store(total + at, x + load<V>(in.other + at));
            x = load<V>(total + at);  // as it was rounded
        }
        const V apart = x - guess;
        sum += apart;
        square += apart * apart;
    }
    store(of.first + c, sum);
    store(of.second + c, square);
}

template <class V, int64_t R, class T>
inline void apply(const T *x, T *y, int64_t stride, int64_t c, const Channels &of) {
    const V mean = load<V>(of.mean + c), scale = load<V>(of.scale + c), bias = load<V>(of.bias + c);
    for (int64_t at = c, r = 0; r < R; ++r, at += stride) {
        const V pre = (load<V>(x + at) - mean) * scale + bias;
        store(y + at, relu(pre, pre));
    }
}

// Sums of the gradient before the ReLU, and of it times (x - mean).
template <class V, int64_t R, class T>
inline void add_gradients(const T *dy, const T *x, int64_t stride, int64_t c, const Channels &of) {
    const V mean = load<V>(of.mean + c), scale = load<V>(of.scale + c), bias = load<V>(of.bias + c);
    V sum = load<V>(of.first + c), dot = load<V>(of.second + c);
    for (int64_t at = c, r = 0; r < R; ++r, at += stride) {
        const V apart = load<V>(x + at) - mean;
        const V dpre = relu(apart * scale + bias, load<V>(dy + at));
        sum += dpre;
        dot += dpre * apart;
    }
    store(of.first + c, sum);
    store(of.second + c, dot);
}

template <class V, int64_t R, bool ADDS, class T>
inline void apply_gradients(const T *dy, Pair<T> in, T *dx, int64_t stride, int64_t c, const Channels &of) {
    const V mean = load<V>(of.mean + c), scale = load<V>(of.scale + c), bias = load<V>(of.bias + c);
    const V sum = load<V>(of.first + c), dot = load<V>(of.second + c);
    for (int64_t at = c, r = 0; r < R; ++r, at += stride) {
        const V apart = load<V>(in.x + at) - mean;
        V value = relu(apart * scale + bias, load<V>(dy + at)) * scale - (apart * dot + sum);
        if (ADDS) value += load<V>(in.other + at);
        store(dx + at, value);
    }
}

template <class V, int64_t R>
struct Part {
    typedef V Vector;
    static constexpr int64_t rows = R;
};

// each(Part<V, R>, row, c) for all of these rows and channels.
template <class Each>
inline void over(int64_t begin, int64_t end, int64_t channels, Each each) {
    const int64_t vectors = channels / LANES * LANES;
    for (; begin < end; begin += end - begin >= 4 ? 4 : 1) {
        if (end - begin >= 4) {
            for (int64_t c = 0; c < vectors; c += LANES) each(Part<floats, 4>{}, begin, c);
            for (int64_t c = vectors; c < channels; ++c) each(Part<float, 4>{}, begin, c);
        } else {
            for (int64_t c = 0; c < vectors; c += LANES) each(Part<floats, 1>{}, begin, c);
            for (int64_t c = vectors; c < channels; ++c) each(Part<float, 1>{}, begin, c);
        }
    }
}

// What a thread needs for each channel of a unit.
struct Scratch {
    float *numbers;
    double *first, *second;
    Channels of;
    explicit Scratch(int64_t channels)
        : numbers(new float[4 * channels]), first(new double[2 * channels]), second(first + channels),
          of{numbers, numbers + channels, numbers + 2 * channels, numbers + 3 * channels, nullptr} {}
    ~Scratch() {
        delete[] numbers;
        delete[] first;
    }
    // Has `each` add to of.first and of.second, and adds these up in double now and then.
    template <class Each>
    void add_up(int64_t rows, int64_t channels, Each each) {
        std::memset(first, 0, channels * sizeof(double));
        std::memset(second, 0, channels * sizeof(double));
        for (int64_t begin = 0; begin < rows; begin += FLUSHED) {
            std::memset(of.first, 0, channels * sizeof(float));
            std::memset(of.second, 0, channels * sizeof(float));
            over(begin, begin + FLUSHED < rows ? begin + FLUSHED : rows, channels, each);
            for (int64_t c = 0; c < channels; ++c) {
                first[c] += of.first[c];
                second[c] += of.second[c];
            }
        }
    }
};

struct Shape {
    int64_t samples, rows, channels, num_groups, group_size, threads;
};

// One sample and some whole groups: where they begin, and how many they are.
struct Unit {
    int64_t sample, group, num_groups, first_channel, channels, start;
};

// Whole groups whose `row_bytes` for each channel fill half of the cache; whole cache lines if they can be.
int64_t groups_of_unit(const Shape &shape, int64_t bytes_of_channel) {
    const long cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
    const int64_t most = (cache > 0 ? cache : 1 << 20) / 2 / bytes_of_channel / shape.group_size;
    const int64_t aligned = (32 + shape.group_size - 1) / shape.group_size;
    const int64_t units = (shape.num_groups + (most > 1 ? most : 1) - 1) / (most > 1 ? most : 1);
    const int64_t groups = ((shape.num_groups + units - 1) / units + aligned - 1) / aligned * aligned;
    return groups < shape.num_groups ? groups : shape.num_groups;
}

// each(scratch, unit) for all units.
template <class Each>
void over_units(const Shape &shape, int64_t bytes_of_channel, Each each) {
    const int64_t groups = groups_of_unit(shape, bytes_of_channel);
    const int64_t blocks = (shape.num_groups + groups - 1) / groups;
#pragma omp parallel num_threads(shape.threads)
    {
        Scratch scratch(groups * shape.group_size);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < shape.samples * blocks; ++i) {
            const int64_t sample = i / blocks, group = i % blocks * groups, left = shape.num_groups - group;
            const int64_t here = left < groups ? left : groups, first = group * shape.group_size;
            each(scratch, Unit{sample, group, here, first, here * shape.group_size,
                               sample * shape.rows * shape.channels + first});
        }
    }
}

template <class T>
void forward(
    Pair<T> in, T *total, T *y, float *mean, float *rstd, const float *weight, const float *bias, double eps,
    const Shape &shape
) {
    const int64_t C = shape.channels, rows = shape.rows, size = shape.group_size;
    over_units(shape, rows * sizeof(T), [=](Scratch &scratch, const Unit &unit) {
        Channels &of = scratch.of;
        of.bias = bias + unit.first_channel;
        const T *x = in.x + unit.start, *other = in.other ? in.other + unit.start : nullptr;
        T *kept = total ? total + unit.start : nullptr;
        // The first row for a guess: sums of squares about zero would lose small variances beside large means.
        for (int64_t c = 0; c < unit.channels; ++c)
            of.mean[c] = load<float>(x + c) + (other ? load<float>(other + c) : 0.0f);
        scratch.add_up(rows, unit.channels, [=](auto part, int64_t row, int64_t c) {
            typedef typename decltype(part)::Vector V;
            constexpr int64_t R = decltype(part)::rows;
            if (other)
                add_moments<V, R, true, T>({x + row * C, other + row * C}, kept + row * C, C, c, of);
            else
                add_moments<V, R, false, T>({x + row * C, nullptr}, nullptr, C, c, of);
        });
        for (int64_t g = 0, c = 0; g < unit.num_groups; ++g) {
            const int64_t begin = g * size, end = begin + size, moment = unit.sample * shape.num_groups + unit.group + g;
            double average = 0, m2 = 0;
            for (c = begin; c < end; ++c) average += of.mean[c] + scratch.first[c] / rows;
            average /= size;
            for (c = begin; c < end; ++c) {
                const double apart = of.mean[c] + scratch.first[c] / rows - average;
                const double m2_c = scratch.second[c] - scratch.first[c] * scratch.first[c] / rows;
                m2 += (m2_c < 0 ? 0 : m2_c) + rows * apart * apart;
            }
            mean[moment] = float(average);
            rstd[moment] = float(1 / std::sqrt(m2 / (double(rows) * size) + eps));
            for (c = begin; c < end; ++c) {
                of.mean[c] = mean[moment];
                of.scale[c] = rstd[moment] * weight[unit.first_channel + c];
            }
        }
        const T *from = kept ? kept : x;
        T *to = y + unit.start;
        over(0, rows, unit.channels, [=](auto part, int64_t row, int64_t c) {
            apply<typename decltype(part)::Vector, decltype(part)::rows>(from + row * C, to + row * C, C, c, of);
        });
    });
}

template <class T>
void backward(
    const T *dy, Pair<T> in, T *dx, const float *mean, const float *rstd, const float *weight, const float *bias,
    float *dweight, float *dbias, double *parts, const Shape &shape
) {
    const int64_t C = shape.channels, rows = shape.rows, size = shape.group_size;
    double *dots = parts, *sums = parts + shape.samples * C;
    over_units(shape, 2 * rows * sizeof(T), [=](Scratch &scratch, const Unit &unit) {
        Channels &of = scratch.of;
        of.bias = bias + unit.first_channel;
        const float *scales = weight + unit.first_channel;
        const int64_t moment = unit.sample * shape.num_groups + unit.group;
        for (int64_t c = 0; c < unit.channels; ++c) {
            of.mean[c] = mean[moment + c / size];
            of.scale[c] = rstd[moment + c / size] * scales[c];
        }
        const T *g = dy + unit.start, *x = in.x + unit.start, *other = in.other ? in.other + unit.start : nullptr;
        scratch.add_up(rows, unit.channels, [=](auto part, int64_t row, int64_t c) {
            add_gradients<typename decltype(part)::Vector, decltype(part)::rows>(g + row * C, x + row * C, C, c, of);
        });
        for (int64_t group = 0, c = 0; group < unit.num_groups; ++group) {
            const int64_t begin = group * size, end = begin + size;
            const double r = rstd[moment + group], count = double(rows) * size;
            double sum = 0, dot = 0;
            for (c = begin; c < end; ++c) {
                sums[unit.sample * C + unit.first_channel + c] = scratch.first[c];
                dots[unit.sample * C + unit.first_channel + c] = scratch.second[c] * r;
                sum += scratch.first[c] * scales[c];
                dot += scratch.second[c] * scales[c];
            }
            for (c = begin; c < end; ++c) {
                of.first[c] = float(sum / count * r);
                of.second[c] = float(dot / count * r * r * r);
            }
        }
        T *to = dx + unit.start;
        over(0, rows, unit.channels, [=](auto part, int64_t row, int64_t c) {
            typedef typename decltype(part)::Vector V;
            constexpr int64_t R = decltype(part)::rows;
            if (other)
                apply_gradients<V, R, true, T>(g + row * C, {x + row * C, other + row * C}, to + row * C, C, c, of);
            else
                apply_gradients<V, R, false, T>(g + row * C, {x + row * C, nullptr}, to + row * C, C, c, of);
        });
    });
    for (int64_t c = 0; c < C; ++c) {
        double dot = 0, sum = 0;
        for (int64_t sample = 0; sample < shape.samples; ++sample) {
            dot += dots[sample * C + c];
            sum += sums[sample * C + c];
        }
        dweight[c] = float(dot);
        dbias[c] = float(sum);
    }
}

template <class T>
Pair<T> pair(const void *x, const void *other) {
    return {(const T *)x, (const T *)other};
}

}  // namespace

extern "C" {

void group_norm_relu_forward(
    int is_bfloat16, const void *x, const void *residual, void *total, void *y, float *mean, float *rstd,
    const float *weight, const float *bias, double eps, int64_t samples, int64_t rows, int64_t channels,
    int64_t num_groups, int64_t threads
) {
    const Shape shape{samples, rows, channels, num_groups, channels / num_groups, threads};
    if (is_bfloat16)
        forward(pair<bfloat16>(x, residual), (bfloat16 *)total, (bfloat16 *)y, mean, rstd, weight, bias, eps, shape);
    else
        forward(pair<float>(x, residual), (float *)total, (float *)y, mean, rstd, weight, bias, eps, shape);
}

void group_norm_relu_backward(
    int is_bfloat16, const void *dy, const void *x, const void *dtotal, void *dx, const float *mean, const float *rstd,
    const float *weight, const float *bias, float *dweight, float *dbias, double *parts, int64_t samples, int64_t rows,
    int64_t channels, int64_t num_groups, int64_t threads
) {
    const Shape shape{samples, rows, channels, num_groups, channels / num_groups, threads};
    if (is_bfloat16)
        backward((const bfloat16 *)dy, pair<bfloat16>(x, dtotal), (bfloat16 *)dx, mean, rstd, weight, bias, dweight,
                 dbias, parts, shape);
    else
        backward((const float *)dy, pair<float>(x, dtotal), (float *)dx, mean, rstd, weight, bias, dweight, dbias,
                 parts, shape);
}

}  // extern "C"
