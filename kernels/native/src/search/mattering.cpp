#include "search/mattering.hpp"

#include "rescore/lists.hpp"

namespace oracle {
namespace {

// bytes of a row that is asked for alone before it is its turn: the rest follows by itself
constexpr int64_t kBytesOfOneAhead = 4096;

// <row, query> in float32.
template <class T>
float product(const T* row, const float* query, int64_t dim) {
    constexpr int W = kLanesOfScreen, PARTS = 4;
    FloatVector sums[PARTS] = {};
    int64_t d = 0;
    for (; d + PARTS * W <= dim; d += PARTS * W)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part)
            sums[part] += load_widened<float>(row + d + part * W) * load(query + d + part * W);
    float last = 0.0f;
    for (; d < dim; ++d) last += static_cast<float>(widened(row[d])) * query[d];
    return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3])) + last;
}

// <q, r> of a query and a row, and the squared norm of the answer that the row alone would give.
struct Alone {
    double product, answer;
};

template <class T>
Alone alone(const SearchAsked& asked, const AskedQueries& queries, int64_t b, const T* row) {
    const int64_t dim = asked.rows->dim;
    const bool answers = asked.direct != nullptr;
    const double *q = queries.point + b * dim, *x = answers ? queries.given + b * dim : q;
    // an answer is direct value + gap (x - alpha value)
    const double gap = answers ? asked.gap[b] : 0.0;
    const double factor = answers ? asked.direct[b] - gap * queries.alpha[b] : 0.0;
    Wide products = {}, squares = {};
    const auto add = [&](Wide stored, Wide centre, Wide base, Wide point, Wide given) {
        const Wide r = stored - centre;
        products = fused(point, r, products);
        const Wide answer = factor * (queries.scale * r + base) + gap * given;
        squares = fused(answer, answer, squares);
    };
    const double* base = answers ? queries.base : asked.rows->centre;
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes)
        add(wide(row + d), wide(asked.rows->centre + d), wide(base + d), wide(q + d), wide(x + d));
    const int64_t rest = dim - d;
    // lanes beyond the last value are zeros
    if (rest > 0)
        add(wide_some(row + d, rest), wide_some(asked.rows->centre + d, rest), wide_some(base + d, rest),
            wide_some(q + d, rest), wide_some(x + d, rest));
    return {lane_sum(products), lane_sum(squares)};
}

}  // namespace

WholeRows::WholeRows(const SearchAsked& asked, const SearchQueries& queries)
    : asked_(asked),
      queries_(queries),
      narrow_(asked.queries.count * asked.rows->dim),
      centre_(asked.queries.count),
      error_(asked.queries.count) {
    const RowsView& rows = *asked.rows;
    share_out(usable_threads(asked.threads), asked.queries.count, [&](int64_t b) {
        const double *point = queries.point(b), norm = std::sqrt(queries.squares(b));
        double centre = 0.0;
        for (int64_t d = 0; d < rows.dim; ++d) {
            narrow_[b * rows.dim + d] = static_cast<float>(point[d]);
            centre += point[d] * rows.centre[d];
        }
        centre_[b] = centre;
        const double size = norm * asked.row_radius + std::fabs(queries.asked().alpha[b]) * rows.radius * rows.radius;
        error_[b] = queries.gain(b) * asked.row_error * size;
    });
}

double WholeRows::least_partition(int64_t query, int64_t row, double& mass) const {
    const RowsView& rows = *asked_.rows;
    const AskedQueries& queries = queries_.asked();
    mass = asked_.mass[query];
    if (row < 0) return kNothing;
    Alone found{};
    with_storage(rows.storage, [&](auto* type) {
        found = alone(asked_, queries, query, row_of<std::remove_pointer_t<decltype(type)>>(rows, row));
    });
    if (asked_.direct != nullptr) {
        const double distance = queries.scale * (rows.radius + std::sqrt(2.0 * rows.half_norms[row]));
        const double share = std::sqrt(found.answer) / std::max(asked_.change[query] * distance, 1e-300);
        mass *= std::min(share, 1.0);
    }
    const double logit = queries_.gain(query) * (found.product - queries.alpha[query] * rows.half_norms[row]);
    // float64 hides far less than a millionth of what float32 does
    return logit + (rows.log_weights == nullptr ? 0.0 : rows.log_weights[row]) - 1e-6 * error_[query];
}

double WholeRows::logit(int64_t query, int64_t row) const {
    const RowsView& rows = *asked_.rows;
    float found = 0.0f;
    with_storage(rows.storage, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        found = product(row_of<T>(rows, row), narrow_.data() + query * rows.dim, rows.dim);
    });
    const double gap = found - centre_[query] - queries_.asked().alpha[query] * rows.half_norms[row];
    return queries_.gain(query) * gap + (rows.log_weights == nullptr ? 0.0 : rows.log_weights[row]);
}

void WholeRows::ask_for(int64_t row) const {
    with_storage(asked_.rows->storage, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        oracle::ask_for<T>(*asked_.rows, row, kBytesOfOneAhead);
    });
}

// All rows share the mass that may be left out.
double WholeRows::floor_of(const Kept& kept) const {
    const double rows = static_cast<double>(asked_.stop - asked_.start);
    return kept.best + std::log(std::max(kept.mass, 1e-300) / rows);
}

void WholeRows::raise(const MatteringRow* promising, Kept& kept) const {
    double least = kNothing;
    if (promising != nullptr) upper(*promising, least);
    kept.best = std::max(kept.best, least);
    kept.floor = floor_of(kept);
}

double WholeRows::upper(const MatteringRow& one, double& least) const {
    const double found = logit(one.query, one.row), error = error_[one.query];
    least = found - error;
    return std::min<double>(found + error, one.upper);
}

void WholeRows::leave_out(Kept& kept) const {
    // few rows share the mass
    const double share = std::max(kept.mass, 1e-300) / std::max<double>(kept.rows.size(), 1.0);
    const double raised = kept.best + std::log(share);
    double light = 0.0;
    size_t count = 0;
    for (size_t k = 0; k < kept.rows.size(); ++k)
        if (kept.upper[k] >= raised)
            kept.rows[count++] = kept.rows[k];
        else
            light += small_weight(kept.upper[k] - raised);
    kept.rows.resize(count);
    kept.log_omitted = log_sum(kept.floor + std::log(kept.below), raised + std::log(light));
}

}  // namespace oracle
