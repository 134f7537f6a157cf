#include "threads/helpers.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <thread>

#include "threads/regions.hpp"
#include "threads/threads.hpp"

namespace oracle {
namespace {

using Clock = std::chrono::steady_clock;

// How long a helper without work looks out for some before it sleeps, which it takes a hundred microseconds to wake
// from; and how long one who has nothing left to do waits awake for the shares of helpers. Whoever else wants the
// processor gets it meanwhile.
constexpr std::chrono::microseconds kAwake(500), kSoon(50);

// Helpers up to which they are told which processor to keep off, a system call each when who asks has moved: with more
// processors the system finds one that is idle.
constexpr int64_t kFewHelpers = 3;

// looks at something that others change, between two looks at the clock
constexpr int kLooks = 16;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits awake until `ready`, and no longer than `most`; returns whether it is.
template <class Ready>
bool soon(std::chrono::microseconds most, const Ready& ready) {
    const Clock::time_point end = Clock::now() + most;
    while (!ready()) {
        if (Clock::now() > end) return ready();
        sched_yield();
        for (int look = 0; look < kLooks && !ready(); ++look) pause();
    }
    return true;
}

// the processors that the process could use when it began
cpu_set_t processors;
__attribute__((constructor)) void look_at_processors() {
    CPU_ZERO(&processors);
    sched_getaffinity(0, sizeof processors, &processors);
}

// A helper, and the processor that it keeps off.
struct Place {
    pthread_t thread;
    int avoided = -1;
};

// The processors that helpers of the calling thread may use: its own ones, or, where it is bound to a single one as
// OpenMP binds threads, those of the process.
cpu_set_t usable_processors() {
    cpu_set_t own;
    CPU_ZERO(&own);
    const bool known = sched_getaffinity(0, sizeof own, &own) == 0;
    return known && CPU_COUNT(&own) > 1 ? own : processors;
}

// Lets a helper use all of these but the one that the calling thread keeps busy. The system may leave both there for
// long, and then a share of half a millisecond takes the helper until the next turn of its clock, several milliseconds.
void keep_apart(Place& helper, int own) {
    if (own < 0 || own == helper.avoided) return;
    cpu_set_t others = usable_processors();
    CPU_CLR(own, &others);
    if (CPU_COUNT(&others) > 0) pthread_setaffinity_np(helper.thread, sizeof others, &others);
    helper.avoided = own;
}

// The threads that help in this process, and the work that they may take shares of.
class Helpers {
  public:
    // Lets helpers take shares of `work`.
    void offer(SharedWork& work) {
        const int64_t wanted = std::min(work.most, work.shares - work.next);
        std::unique_lock<std::mutex> lock(mutex_);
        work.following = first_, first_ = &work;
        ++offers_;
        while (count_ < wanted && start_one()) ++count_;
        const int own = count_ <= kFewHelpers ? sched_getcpu() : -1;
        for (Place& helper : places_) keep_apart(helper, own);
        const int64_t woken = std::min(wanted - looking_, asleep_);
        lock.unlock();
        for (int64_t i = 0; i < woken; ++i) offered_.notify_one();
    }

    // Returns a share of `work` that nobody has taken, or -1.
    int64_t take(SharedWork& work) {
        const std::lock_guard<std::mutex> lock(mutex_);
        return work.next < work.shares ? work.next++ : -1;
    }

    // Lets no helper take more of `work`, and waits for those that are at it.
    void withdraw(SharedWork& work) {
        std::unique_lock<std::mutex> lock(mutex_);
        SharedWork** place = &first_;
        while (*place != &work) place = &(*place)->following;
        *place = work.following;
        lock.unlock();
        const auto done = [&] { return work.helping.load(std::memory_order_acquire) == 0; };
        if (soon(kSoon, done)) return;
        lock.lock();
        left_.wait(lock, done);
    }

    // Shares that helpers have done so far.
    int64_t helped() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return helped_;
    }

    // never taken down: helpers may be asleep in it when the process ends
    static Helpers& of_process() {
        static Helpers* const helpers = new Helpers;
        return *helpers;
    }

  private:
    std::mutex mutex_;
    std::condition_variable offered_, left_;
    std::list<Place> places_;          // of the helpers
    SharedWork* first_ = nullptr;      // what may have shares to take
    std::atomic<uint64_t> offers_{0};  // so far
    int64_t count_ = 0, looking_ = 0, asleep_ = 0, helped_ = 0;

    // Returns whether there is one helper more; the others, or none, do as well.
    bool start_one() {
        sigset_t all, before;
        sigfillset(&all);
        // signals are for threads that can handle them
        pthread_sigmask(SIG_SETMASK, &all, &before);
        bool started = true;
        try {
            Place& place = places_.emplace_back();
            std::thread thread([this] { help(); });
            place.thread = thread.native_handle();
            thread.detach();
            // it begins on those of the calling thread, which may be bound to one
            const cpu_set_t usable = usable_processors();
            pthread_setaffinity_np(place.thread, sizeof usable, &usable);
        } catch (const std::exception&) {
            // no thread, or no memory for one
            places_.resize(count_);
            started = false;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return started;
    }

    void help() {
        pthread_setname_np(pthread_self(), "oracle-helper");
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            SharedWork* work = first_;
            while (work && (work->next == work->shares || work->helping == work->most)) work = work->following;
            work ? help_with(*work, lock) : wait(lock);
        }
    }

    void help_with(SharedWork& work, std::unique_lock<std::mutex>& lock) {
        const int64_t share = work.next++;
        ++work.helping;
        lock.unlock();
        work.call(work.work, share);
        lock.lock();
        ++helped_;
        // the work may be gone as soon as nobody is at it
        if (--work.helping == 0) left_.notify_all();
    }

    void wait(std::unique_lock<std::mutex>& lock) {
        const uint64_t seen = offers_;
        const int64_t regions = RegionThreads::begun();
        const auto another = [&] { return offers_.load(std::memory_order_relaxed) != seen; };
        ++looking_;
        lock.unlock();
        // the threads of a region would share their processors with who looks out beside them
        soon(kAwake, [&] { return another() || RegionThreads::begun() != regions; });
        lock.lock();
        --looking_, ++asleep_;
        offered_.wait(lock, another);
        --asleep_;
    }
};

}  // namespace

void do_shares(SharedWork& work) {
    Helpers& helpers = Helpers::of_process();
    int64_t share = work.next++;
    helpers.offer(work);
    for (; share >= 0; share = helpers.take(work)) work.call(work.work, share);
    helpers.withdraw(work);
}

}  // namespace oracle

// How many shares of small work threads other than the one that asked for it have done in this process.
ORACLE_EXPORT int64_t oracle_shares_helped() {
    return oracle::Helpers::of_process().helped();
}
