#include "scans/finish.hpp"

#include "rescore/mix.hpp"
#include "rescore/weigh.hpp"
#include "threads/share_out.hpp"

namespace oracle {
namespace {

// The state of a query over the rows that were summed.
void write_coarse(const StatesView& out, Problem& problem, int64_t b) {
    const ScanProblem& found = problem.view();
    const double square = problem.queries.squares[b], precision = problem.queries.asked().inverse_variance[b];
    const auto sum = [&](int64_t which) { return found.sums[which * found.batch + b]; };
    const double mass = sum(2);
    out.lse[b] = kNothing;
    if (!(mass > 0.0)) return;
    out.lse[b] = sum(0) + std::log(mass) - 0.5 * precision * square;
    if (out.entropy == nullptr) return;
    out.concentration[b] = sum(3) / mass / mass;
    out.entropy[b] = std::log(mass) - sum(4) / mass;
    if (out.mean == nullptr) return;
    const double spread = 2.0 * sum(5) / mass - squared_norm(out.mean + b * found.dim, found.dim);
    out.variance[b] = std::max(spread, 0.0);
}

// States of no sample, which own their memory.
class OwnStates {
  public:
    OwnStates(const StatesView& like, int64_t batch, int64_t dim)
        : numbers_(5 * batch),
          mean_(like.mean ? batch * dim : 0),
          top_(2 * batch * like.top_k),
          rows_(batch * like.top_k, -1) {
        std::fill_n(numbers_.begin(), batch, kNothing);
        std::fill_n(top_.begin(), batch * like.top_k, kNothing);
        double* numbers = numbers_.data();
        const bool moments = like.entropy != nullptr;
        view = {numbers,
                numbers + batch,
                like.mean ? mean_.data() : nullptr,
                moments ? numbers + 2 * batch : nullptr,
                moments ? numbers + 3 * batch : nullptr,
                moments && like.mean ? numbers + 4 * batch : nullptr,
                top_.data(),
                top_.data() + batch * like.top_k,
                rows_.data(),
                like.top_k};
    }

    StatesView view;

  private:
    std::vector<double> numbers_, mean_, top_;
    std::vector<int64_t> rows_;
};

// x log x
double times_log(double share) {
    return share > 0.0 ? share * std::log(share) : 0.0;
}

// Merges the state of a query with another over other rows, as merge in kernels/common/state.py does.
void merge_state(const StatesView& out, const StatesView& other, int64_t dim, int64_t b) {
    if (other.lse[b] == kNothing) return;
    const double gap = out.lse[b] == kNothing ? kNothing : (out.lse[b] - other.lse[b]) - other.lse_rest[b];
    // from the difference of the two: shares add up to one however large the logs are
    const double own = 1.0 / (1.0 + std::exp(-gap)), rest = 1.0 / (1.0 + std::exp(gap));
    const double high = std::max(out.lse[b], other.lse[b]);
    const double low = (out.lse[b] >= other.lse[b] ? 0.0 : other.lse_rest[b]) + std::log1p(std::exp(-std::fabs(gap)));
    const Twice<double> lse = two_sum(high, low);
    out.lse[b] = lse.high, out.lse_rest[b] = lse.low;
    const double apart = out.mean ? mix(own, rest, other.mean + b * dim, dim, out.mean + b * dim) : 0.0;
    if (out.entropy == nullptr) return;
    out.concentration[b] = own * own * out.concentration[b] + rest * rest * other.concentration[b];
    out.entropy[b] = own * out.entropy[b] + rest * other.entropy[b] - times_log(own) - times_log(rest);
    if (out.mean == nullptr) return;
    out.variance[b] = own * out.variance[b] + rest * other.variance[b] + own * rest * apart;
}

// Of the candidates of all lists, those with the largest coarse logits.
Listed candidates(const ScanProblem& found, int64_t tops) {
    Listed all;
    all.first.push_back(0);
    std::vector<std::pair<double, int64_t>> some;
    for (int64_t b = 0; b < found.batch; ++b) {
        some.clear();
        for (int64_t list = 0; list < tops && found.kept[b] >= 0; ++list)
            for (int64_t k = 0; k < found.top; ++k) {
                const int64_t at = (list * found.batch + b) * found.top + k;
                if (found.top_logits[at] > kNothing) some.emplace_back(found.top_logits[at], found.top_rows[at]);
            }
        std::stable_sort(some.begin(), some.end(), [](auto one, auto two) { return one.first > two.first; });
        some.resize(std::min<size_t>(some.size(), found.top));
        for (const auto& one : some) all.row.push_back(one.second);
        all.first.push_back(all.row.size());
    }
    return all;
}

// Names the heaviest samples: those that `rescored` names, where there are any, and the candidates.
void name_heaviest(const ScanAsked& asked, const QueriesView& queries, const ScanProblem& found,
                   const StatesView* rescored, int64_t tops) {
    const StatesView& out = asked.out;
    const int64_t most = out.top_k;
    std::fill_n(out.top_logits, queries.count * most, kNothing);
    std::fill_n(out.top_rows, queries.count * most, int64_t{-1});
    const Listed some = candidates(found, tops);
    std::vector<double> high(some.row.size()), low(some.row.size());
    const ListsView lists = {some.first.data(), some.row.data(), usable_threads(asked.threads)};
    score_lists(*asked.rows, queries, *asked.digits, lists, high.data(), low.data());
    for (int64_t b = 0; b < queries.count; ++b) {
        Heaviest heaviest(out, b);
        const int64_t* named = rescored == nullptr ? nullptr : rescored->top_rows + b * most;
        for (int64_t k = b * most; named && k < (b + 1) * most; ++k)
            heaviest.offer(rescored->top_logits[k], rescored->top_rest[k], rescored->top_rows[k]);
        for (int64_t k = some.first[b]; k < some.first[b + 1]; ++k)
            if (!named || std::find(named, named + most, some.row[k]) == named + most)
                heaviest.offer(high[k], low[k], some.row[k]);
    }
}

// |x - alpha m|, m the mean of a query.
double distance_to_mean(const AskedQueries& queries, const double* mean, int64_t dim, int64_t b) {
    const double *point = queries.point + b * dim, alpha = queries.alpha[b];
    Wide total = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
        const Wide rest = wide(point + d) - alpha * wide(mean + d);
        total += rest * rest;
    }
    double square = lane_sum(total);
    for (; d < dim; ++d) square += (point[d] - alpha * mean[d]) * (point[d] - alpha * mean[d]);
    return std::sqrt(square);
}

constexpr double kDoubleRoundoff = 0x1p-53;

// Whether what sums may have lost of a mean shows in E[eps | x], as loss_shows in kernels/common/rounding.py has it.
// coarse: share of these sums in the posterior.
bool loss_shows(const ScanAsked& asked, Problem& problem, int64_t b, double coarse) {
    const AskedQueries& queries = problem.queries.asked();
    const Rounding& law = *asked.rounding;
    const int64_t dim = problem.view().dim;
    const double little = law.little_noise * std::sqrt(dim / queries.inverse_variance[b]);
    const double reach = std::fabs(queries.alpha[b]) * asked.rows->radius;
    // noise below the rounding of float64 coordinates is none that a query could show
    if (!(little > kDoubleRoundoff * reach)) return false;
    // no mean is longer than the longest row
    if (std::sqrt(problem.queries.squares[b]) - reach > little) return false;
    const double distance = distance_to_mean(queries, asked.out.mean + b * dim, dim, b);
    if (!(distance < little)) return false;
    const ScanProblem& found = problem.view();
    const double error = logit_error(found.scan, found.law[b], found.sums[found.batch + b]);
    const double share = coarse * (law.sum_roundings * law.roundoff + law.moved * error) + law.dropped_mass;
    return share * reach > law.budget * distance;
}

// Leaves queries whose mean needs more digits to a scan of differences. coarse: log-partitions of the sums.
void leave_little_noise(ScanAsked& asked, Problem& problem, const std::vector<double>& coarse) {
    const StatesView& out = asked.out;
    if (out.mean == nullptr) return;
    for (size_t b = 0; b < coarse.size(); ++b) {
        if (std::isnan(out.lse_rest[b]) || !(out.lse[b] > kNothing)) continue;
        if (!loss_shows(asked, problem, b, std::min(std::exp(coarse[b] - out.lse[b]), 1.0))) continue;
        out.lse_rest[b] = std::nan(""), ++asked.overflows;
    }
}

// How far below others a sum has no weight, in nats.
constexpr double kUnseen = 60.0;

// Leaves queries whose points have lost digits to rounding, beside which sums have weight, to a scan of differences:
// see point_error in kernels/common/rounding.py. coarse: log-partitions of the sums.
void leave_lost_digits(ScanAsked& asked, Problem& problem, const std::vector<double>& coarse) {
    for (size_t b = 0; b < coarse.size(); ++b) {
        if (std::isnan(asked.out.lse_rest[b]) || !(coarse[b] > kNothing)) continue;
        const double lost = problem.queries.point_error(b, asked.digits->roundoff);
        if (lost <= asked.rounding->point_limit || coarse[b] < asked.out.lse[b] - kUnseen - lost) continue;
        asked.out.lse_rest[b] = std::nan(""), ++asked.overflows;
    }
}

// Adds the rows that are listed, scored again, to the states of the others, and names the heaviest samples.
void add_rescored(ScanAsked& asked, Problem& problem, const Listed& listed, int64_t tops) {
    const ScanProblem& found = problem.view();
    const int64_t batch = found.batch;
    if (listed.row.empty() && asked.out.top_k == 0) return;
    const QueriesView queries = problem.queries.in_stored_coordinates();
    if (listed.row.empty()) return name_heaviest(asked, queries, found, nullptr, tops);
    const OwnStates rescored(asked.out, batch, found.dim);
    const int threads = usable_threads(asked.threads);
    const ListsView lists = {listed.first.data(), listed.row.data(), threads};
    weigh_lists(*asked.rows, queries, *asked.digits, lists, rescored.view);
    share_out_many(worth(threads, kMixing * batch * (found.dim + kItself)), batch,
                   [&](int64_t b) { merge_state(asked.out, rescored.view, found.dim, b); });
    if (asked.out.top_k > 0) name_heaviest(asked, queries, found, &rescored.view, tops);
}

}  // namespace

void finish_states(ScanAsked& asked, Problem& problem, const Listed& listed, int64_t tops) {
    const ScanProblem& found = problem.view();
    asked.overflows = 0;
    for (int64_t b = 0; b < found.batch; ++b) {
        write_coarse(asked.out, problem, b);
        if (found.kept[b] < 0) asked.out.lse_rest[b] = std::nan(""), ++asked.overflows;
    }
    const std::vector<double> coarse(asked.out.lse, asked.out.lse + found.batch);
    add_rescored(asked, problem, listed, tops);
    leave_lost_digits(asked, problem, coarse);
    leave_little_noise(asked, problem, coarse);
}

}  // namespace oracle
