// Rows as they are stored, brought into the panels that the products read.
#pragma once
#include "products/scan.hpp"

namespace oracle {

// A vector of a row's coordinates without the centre.
template <class Real, class Stored>
ORACLE_INLINE Vector<Real> row_vector(const Stored* row, int64_t d, const Real* centre) {
    return load_widened<Real>(row + d) - load(centre + d);
}

// The same where the row ends before the vector does: zero beyond.
template <class Real, class Stored>
ORACLE_APART Vector<Real> last_vector(const Stored* row, int64_t d, int64_t dim, const Real* centre) {
    Stored part[Tile<Real>::lanes] = {};
    std::memcpy(part, row + d, (dim - d) * sizeof(Stored));
    return load_widened<Real>(part) - load(centre + d);
}

// Any vector of a row of `dim` coordinates.
template <class Real, class Stored>
ORACLE_INLINE Vector<Real> vector_from(const Stored* row, int64_t d, int64_t dim, const Real* centre) {
    if (d + Tile<Real>::lanes <= dim) return row_vector(row, d, centre);
    return d < dim ? last_vector(row, d, dim, centre) : Vector<Real>{};
}

// Widens `count` rows into panels, [D / P][block][P], and takes `centre`, [D], off each. Rows up to a multiple
// of a tile's, and coordinates up to a multiple of a panel's, are zero.
template <class Real, class Stored>
ORACLE_APART void pack_rows(const Stored* rows, int64_t count, const Shape<Real>& shape, const Real* centre,
                            Real* out) {
    constexpr int64_t W = Tile<Real>::lanes, P = Tile<Real>::panel;
    const int64_t whole = shape.dim / P, stride = shape.block * P;
    for (int64_t r = 0; r < count; ++r) {
        const Stored* x = rows + r * shape.dim;
        Real* to = out + r * P;
        for (int64_t p = 0; p < whole; ++p)
#pragma GCC unroll 3
            for (int64_t d = 0; d < P; d += W)
                store(to + p * stride + d, load_widened<Real>(x + p * P + d) - load(centre + p * P + d));
        for (int64_t d = whole * P; d < shape.panels * P; d += W)
            store(to + whole * stride + d - whole * P, vector_from(x, d, shape.dim, centre));
    }
    const int64_t filled = padded(count, Tile<Real>::rows);
    for (int64_t p = 0; p < shape.panels; ++p)
        std::memset(out + p * stride + count * P, 0, (filled - count) * P * sizeof(Real));
}

// Values of queries, [B, D], and what each query's are multiplied with, [B], or null.
struct QueryValues {
    const double *values, *factor;
};

// Values of queries as the products read them: in panels of two vectors, the last perhaps of one, [D][vectors * lanes]
// each. Coordinates of no query are zero. A thread packs each of so many `threads` vectors.
template <class Real>
ORACLE_APART void pack_panels(const QueryValues& of, const Shape<Real>& shape, Real* out, int64_t thread,
                              int64_t threads) {
    constexpr int64_t W = Tile<Real>::lanes;
    const int64_t values = shape.panels * shape.width;
    for (int64_t v = thread; v < shape.vectors; v += threads) {
        const int64_t pair = v / 2 * 2, wide = shape.vectors - pair > 1 ? 2 : 1;
        Real* panel = out + pair * W * values + (v - pair) * W;
        for (int64_t lane = 0; lane < W; ++lane) {
            const int64_t b = v * W + lane;
            const double factor = of.factor && b < shape.batch ? of.factor[b] : 1.0;
            for (int64_t d = 0; d < values; ++d) {
                const bool real = b < shape.batch && d < shape.dim;
                const double value = real ? factor * of.values[b * shape.dim + d] : 0.0;
                panel[d * wide * W + lane] = static_cast<Real>(value);
            }
        }
    }
}

// Few queries one after the other, [B][width].
template <class Real>
ORACLE_APART void pack_few(const ScanProblem& problem, const Shape<Real>& shape, Real* out) {
    for (int64_t b = 0; b < shape.batch; ++b) {
        const double gain = problem.gain[b];
        const double* point = problem.point + b * shape.dim;
        for (int64_t d = 0; d < shape.dim; ++d) out[b * shape.width + d] = static_cast<Real>(gain * point[d]);
        for (int64_t d = shape.dim; d < shape.width; ++d) out[b * shape.width + d] = 0;
    }
}

// Queries as the products read them, unless these are made in digits alone: out is null then.
template <class Real>
void pack_queries(const ScanProblem& problem, const Shape<Real>& shape, Real* out, int64_t thread) {
    if (out == nullptr) return;
    if (!problem.few) return pack_panels({problem.point, problem.gain}, shape, out, thread, problem.threads);
    if (thread == 0) pack_few(problem, shape, out);
}

// The centre as it is taken off: zero beyond the last coordinate.
template <class Real>
ORACLE_APART void pack_centre(const ScanProblem& problem, const Shape<Real>& shape, Real* out) {
    for (int64_t d = 0; d < shape.panels * shape.width; ++d)
        out[d] = d < shape.dim ? static_cast<Real>(problem.centre[d]) : Real(0);
}

}  // namespace oracle
