// Both products for few queries, straight from the rows as they are stored: one read of the memory decides their time.
#pragma once
#include "scan.hpp"

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

// The sum of a vector's lanes.
template <class Real>
ORACLE_INLINE Real lane_sum(Vector<Real> value) {
    Real total = 0;
    for (int lane = 0; lane < Tile<Real>::lanes; ++lane) total += value[lane];
    return total;
}

// Writes <x_r, q_b> of ROWS rows to logits, [lanes] each, of queries of one vector. queries: [BATCH][width].
template <class Real, class Stored, int BATCH, int ROWS>
ORACLE_INLINE void score_rows(const Stored* rows, const Shape<Real>& shape, const Real* centre, const Real* queries,
                              Real* logits) {
    constexpr int64_t W = Tile<Real>::lanes;
    constexpr int PARTS = BATCH == 1 ? 4 : BATCH == 2 ? 2 : 1;
    Vector<Real> sums[ROWS][BATCH][PARTS] = {};
    int64_t d = 0;
    for (; d + W * PARTS <= shape.dim; d += W * PARTS)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part)
#pragma GCC unroll 2
            for (int r = 0; r < ROWS; ++r) {
                fetch_ahead(rows + r * shape.dim + d + part * W);
                const Vector<Real> x = row_vector(rows + r * shape.dim, d + part * W, centre);
#pragma GCC unroll 4
                for (int b = 0; b < BATCH; ++b) sums[r][b][part] += x * load(queries + b * shape.width + d + part * W);
            }
    for (; d < shape.dim; d += W)
        for (int r = 0; r < ROWS; ++r) {
            const Stored* row = rows + r * shape.dim;
            const bool whole = d + W <= shape.dim;
            const Vector<Real> x = whole ? row_vector(row, d, centre) : last_vector(row, d, shape.dim, centre);
            for (int b = 0; b < BATCH; ++b) sums[r][b][0] += x * load(queries + b * shape.width + d);
        }
    for (int r = 0; r < ROWS; ++r)
        for (int b = 0; b < BATCH; ++b) {
            for (int part = 1; part < PARTS; ++part) sums[r][b][0] += sums[r][b][part];
            logits[r * W + b] = lane_sum<Real>(sums[r][b][0]);
        }
}

// Writes the products of a block, [block][lanes].
template <class Real, class Stored, int BATCH>
ORACLE_APART void score_few(const Stored* rows, int64_t count, const Shape<Real>& shape, const Real* centre,
                            const Real* queries, Real* logits) {
    constexpr int64_t W = Tile<Real>::lanes;
    int64_t r = 0;
    for (; r + 2 <= count; r += 2)
        score_rows<Real, Stored, BATCH, 2>(rows + r * shape.dim, shape, centre, queries, logits + r * W);
    if (r < count) score_rows<Real, Stored, BATCH, 1>(rows + r * shape.dim, shape, centre, queries, logits + r * W);
}

// Adds the weighted sums of the rows that a tile of queries lists. weights: [count][Q]. sums: [BATCH][width].
template <class Real, class Stored, int BATCH>
ORACLE_APART void weigh_few(const Stored* rows, const int32_t* index, const Real* weights, int64_t count,
                            const Shape<Real>& shape, const Real* centre, Real* sums) {
    constexpr int64_t W = Tile<Real>::lanes, Q = Tile<Real>::queries;
    constexpr int WIDE = BATCH == 1 ? 8 : BATCH == 2 ? 4 : 3;
    int64_t d = 0;
    for (; d + W * WIDE <= shape.dim; d += W * WIDE) {
        Vector<Real> total[BATCH][WIDE];
#pragma GCC unroll 4
        for (int b = 0; b < BATCH; ++b)
#pragma GCC unroll 8
            for (int v = 0; v < WIDE; ++v) total[b][v] = load(sums + b * shape.width + d + v * W);
        for (int64_t i = 0; i < count; ++i) {
            const Stored* row = rows + index[i] * shape.dim;
#pragma GCC unroll 8
            for (int v = 0; v < WIDE; ++v) {
                const Vector<Real> x = row_vector(row, d + v * W, centre);
#pragma GCC unroll 4
                for (int b = 0; b < BATCH; ++b) total[b][v] += x * broadcast(weights[i * Q + b]);
            }
        }
#pragma GCC unroll 4
        for (int b = 0; b < BATCH; ++b)
#pragma GCC unroll 8
            for (int v = 0; v < WIDE; ++v) store(sums + b * shape.width + d + v * W, total[b][v]);
    }
    for (; d < shape.dim; d += W)
        for (int64_t i = 0; i < count; ++i) {
            const Stored* row = rows + index[i] * shape.dim;
            const bool whole = d + W <= shape.dim;
            const Vector<Real> x = whole ? row_vector(row, d, centre) : last_vector(row, d, shape.dim, centre);
            for (int b = 0; b < BATCH; ++b) {
                Real* at = sums + b * shape.width + d;
                store(at, load(at) + x * broadcast(weights[i * Q + b]));
            }
        }
}

}  // namespace oracle
