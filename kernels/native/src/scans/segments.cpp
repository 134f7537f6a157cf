// Scans of many spans of rows in one parallel loop: each task is a span and the queries that ask about it.
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "blocks/room.hpp"
#include "blocks/sums.hpp"
#include "scans/finish.hpp"
#include "scans/tasks.hpp"
#include "threads/share_out.hpp"

namespace oracle {

struct Segments {
    Pairs pairs;
    Cut cut;
    int64_t few;  // queries of a task at most that read rows as they are stored
};

namespace {

struct Candidate {
    double logit;
    int64_t row;
};

// What a task found for one of its queries.
struct Found {
    QuerySums part;
    std::vector<Candidate> listed, top;
    bool overflowed;
};

template <class Real>
class SegmentScan {
  public:
    SegmentScan(const ScanProblem& problem, const Segments& segments)
        : problem_(problem),
          segments_(segments),
          threads_(usable_threads(problem.threads)),
          tasks_(segments.pairs, segments.cut),
          found_(tasks_.query.size()),
          extra_(problem.wants_mean ? new double[tasks_.extra * problem.dim] : nullptr) {
        for (int64_t batch = 1; batch <= tasks_.most; ++batch)
            if (batch <= segments.few || batch == tasks_.most)
                bytes_ = std::max(bytes_, bytes_of(of_thread(problem, batch, segments.few)));
    }

    // Throws bad_alloc.
    void run() {
        switch (problem_.stored) {
            case kUint8: take_tasks<uint8_t>(); break;
            case kInt8: take_tasks<int8_t>(); break;
            case kHalf: take_tasks<Half>(); break;
            case kBrain: take_tasks<Brain>(); break;
            case kFloat: take_tasks<float>(); break;
            default: take_tasks<double>();
        }
        share_out_many(threads_, problem_.batch, [&](int64_t b) { merge(b); });
    }

  private:
    const ScanProblem& problem_;
    const Segments& segments_;
    const int threads_;
    const Tasks tasks_;
    std::vector<Found> found_;
    const std::unique_ptr<double[]> extra_;  // sums of the shares of a query beyond the first
    int64_t bytes_ = 0;

    // The memory of a task, at most.
    static int64_t bytes_of(const ScanProblem& task) {
        return Room<Real>(task, digit_use<Real>(task, std::numeric_limits<int64_t>::max()), Arena(nullptr)).bytes;
    }

    template <class Stored>
    void take_tasks() {
        std::atomic<size_t> next{0};
        share_out(threads_, threads_, [&](int64_t) {
            size_t task = next++;
            if (task >= tasks_.all.size()) return;
            const std::unique_ptr<char, void (*)(void*)> memory(
                static_cast<char*>(std::aligned_alloc(64, padded(bytes_, 64))), std::free);
            if (!memory) throw std::bad_alloc();
            for (; task < tasks_.all.size(); task = next++) scan<Stored>(tasks_.all[task], Arena(memory.get()));
        });
    }

    // Where a share has the sums of its mean.
    double* sums_of(int64_t share) const {
        const int64_t place = tasks_.place[share], batch = problem_.batch;
        return place < batch ? problem_.mean + place * problem_.dim : extra_.get() + (place - batch) * problem_.dim;
    }

    template <class Stored>
    void scan(const Task& task, Arena arena) {
        const int64_t batch = task.behind - task.first;
        const ScanProblem own = of_thread(problem_, batch, segments_.few);
        const DigitUse use = digit_use<Real>(own, task.stop - task.start);
        Room<Real> room(own, use, arena);
        for (int64_t b = 0; b < batch; ++b) room.take_query(problem_, tasks_.query[task.first + b], b);
        pack_queries(room.problem, room.shape, room.shared.queries, 0);
        pack_centre(room.problem, room.shape, room.shared.centre);
        if (use.any()) pack_digits(room.problem, room.shape, room.shared, 0);
        begin_sums(room.problem, room.shape, room.memory);
        Worker<Real, Stored>(room.problem, room.shape, room.shared, room.memory).run(task.start, task.stop);
        for (int64_t b = 0; b < batch; ++b) keep(room, b, task.first + b);
    }

    // Copies what was found for query b of a task to the place of its share.
    void keep(const Room<Real>& room, int64_t b, int64_t share) {
        const Memory<Real>& memory = room.memory;
        const int64_t most = room.shape.listed, listed = memory.list_count[b];
        Found& found = found_[share];
        found.part = sums_of_query(memory, b);
        found.overflowed = listed > most;
        for (int64_t i = b * most; !found.overflowed && i < b * most + listed; ++i)
            found.listed.push_back({memory.list_logits[i], memory.list_rows[i]});
        for (int64_t i = b * room.shape.top; i < (b + 1) * room.shape.top; ++i)
            found.top.push_back({double(memory.top_logits[i]), memory.top_rows[i]});
        // the only share of a query is its mean while it is at hand
        const int64_t query = tasks_.query[share];
        const bool alone = tasks_.of[query + 1] - tasks_.of[query] == 1;
        if (problem_.wants_mean) keep_mean(room, b, alone ? found.part.mass : 1.0, sums_of(share));
    }

    // Writes sums over a mass, zeros where it is none.
    static void keep_mean(const Room<Real>& room, int64_t b, double mass, double* mean) {
        const Shape<Real>& shape = room.shape;
        if (!(mass > 0.0)) {
            std::fill_n(mean, shape.dim, 0.0);
            return;
        }
        for (int64_t p = 0; p < shape.panels; ++p) {
            const int64_t at = shape.offset(p, b), count = std::min(shape.width, shape.dim - p * shape.width);
            const Real* sums = room.memory.sums + at;
            const double* total = total_of(room.shape, room.memory, p, b);
            double* out = mean + p * shape.width;
            for (int64_t d = 0; d < count; ++d) out[d] = (double(sums[d]) + (total ? total[d] : 0.0)) / mass;
        }
    }

    // Merges what was found for a query over all of its shares.
    void merge(int64_t b) {
        const int64_t* shares = tasks_.share.data() + tasks_.of[b];
        const int64_t count = tasks_.of[b + 1] - tasks_.of[b];
        std::vector<QuerySums> parts(count);
        std::vector<double> factors(count);
        for (int64_t i = 0; i < count; ++i) parts[i] = found_[shares[i]].part;
        const QuerySums all = merge_sums(parts.data(), count, factors.data());
        problem_.kept[b] = keep_listed(shares, count, write_sums(problem_, all, b));
        if (problem_.wants_mean) merge_mean(shares, count, factors.data(), all.mass, b);
        merge_top(shares, count, b);
    }

    // Returns how many listed rows have weight, and leaves only these; -1 where there were too many.
    int64_t keep_listed(const int64_t* shares, int64_t count, double floor) {
        int64_t listed = 0, kept = 0;
        for (int64_t i = 0; i < count; ++i) {
            std::vector<Candidate>& own = found_[shares[i]].listed;
            listed += found_[shares[i]].overflowed ? problem_.listed + 1 : static_cast<int64_t>(own.size());
            own.erase(std::remove_if(own.begin(), own.end(), [=](Candidate one) { return !(one.logit >= floor); }),
                      own.end());
            kept += own.size();
        }
        return listed > problem_.listed ? -1 : kept;
    }

    // The mean of a query lies where its first share was summed.
    void merge_mean(const int64_t* shares, int64_t count, const double* factors, double mass, int64_t b) {
        double* mean = problem_.mean + b * problem_.dim;
        if (count == 1) return;
        if (!(mass > 0.0)) {
            std::fill_n(mean, problem_.dim, 0.0);
            return;
        }
        for (int64_t d = 0; d < problem_.dim; ++d) mean[d] *= factors[0];
        for (int64_t i = 1; i < count; ++i) {
            const double* own = sums_of(shares[i]);
            for (int64_t d = 0; d < problem_.dim; ++d) mean[d] += factors[i] * own[d];
        }
        // not by a reciprocal: what is left beside listed rows may weigh next to nothing
        for (int64_t d = 0; d < problem_.dim; ++d) mean[d] /= mass;
    }

    void merge_top(const int64_t* shares, int64_t count, int64_t b) {
        if (problem_.top == 0) return;
        std::vector<Candidate> all(problem_.top, {-std::numeric_limits<double>::infinity(), -1});
        for (int64_t i = 0; i < count; ++i)
            all.insert(all.end(), found_[shares[i]].top.begin(), found_[shares[i]].top.end());
        std::stable_sort(all.begin(), all.end(), [](Candidate one, Candidate two) { return one.logit > two.logit; });
        for (int64_t k = 0; k < problem_.top; ++k) {
            problem_.top_logits[b * problem_.top + k] = all[k].logit;
            problem_.top_rows[b * problem_.top + k] = all[k].row;
        }
    }

  public:
    // Returns the listed rows that have weight, by query.
    Listed listed() const {
        Listed all;
        all.first.push_back(0);
        for (int64_t b = 0; b < problem_.batch; ++b) {
            for (int64_t i = tasks_.of[b]; problem_.kept[b] > 0 && i < tasks_.of[b + 1]; ++i)
                for (const Candidate& one : found_[tasks_.share[i]].listed) all.row.push_back(one.row);
            all.first.push_back(all.row.size());
        }
        return all;
    }
};

template <class Real>
void scan_segments(ScanAsked& asked, const Segments& segments) {
    Problem all(asked, 1);
    const ScanProblem& problem = all.view();
    SegmentScan<Real> scan(problem, segments);
    scan.run();
    finish_states(asked, all, scan.listed(), 1);
}

}  // namespace
}  // namespace oracle

// Scans the spans of all queries and writes their states. Returns 0, or 1 where memory is missing.
ORACLE_EXPORT int64_t oracle_scan_segments(oracle::ScanAsked* asked, const oracle::Segments* segments) {
    try {
        asked->rounding->wide ? oracle::scan_segments<double>(*asked, *segments)
                              : oracle::scan_segments<float>(*asked, *segments);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
