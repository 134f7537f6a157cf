// Memory that one large scan leaves to the next: the system clears the pages of new memory one by one, which takes as
// long as a fifteenth of a scan for 256 queries (measured).
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace oracle {

// bytes up to which memory is kept
constexpr int64_t kMostKept = int64_t{1} << 28;

// A piece of memory at a multiple of 64, for one scan at a time.
class KeptMemory {
  public:
    // Takes what the last scan left where that is enough. Throws std::bad_alloc.
    explicit KeptMemory(int64_t bytes) : piece_(left().exchange(nullptr)) {
        if (piece_ && piece_->bytes >= bytes) return;
        piece_ = nullptr;
        piece_ = std::make_unique<Piece>(bytes);
    }
    KeptMemory(const KeptMemory&) = delete;

    // Leaves the memory to the next scan; of two scans at once, the one that ends last does.
    ~KeptMemory() {
        if (piece_->bytes <= kMostKept) piece_.reset(left().exchange(piece_.release()));
    }

    char* begin() const { return piece_->begin.get(); }

  private:
    struct Piece {
        explicit Piece(int64_t size)
            : bytes((size + 63) / 64 * 64), begin(static_cast<char*>(std::aligned_alloc(64, bytes)), std::free) {
            if (!begin) throw std::bad_alloc();
        }

        int64_t bytes;
        std::unique_ptr<char, void (*)(void*)> begin;
    };

    std::unique_ptr<Piece> piece_;

    // what no scan uses at the time
    static std::atomic<Piece*>& left() {
        static std::atomic<Piece*> piece{nullptr};
        return piece;
    }
};

}  // namespace oracle
