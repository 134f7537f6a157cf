#include "threads/threads.hpp"

// the digest of the sources that this library was made from: the other side of a structure that has changed since
// would read what is not there
ORACLE_EXPORT const char* oracle_sources() {
    return ORACLE_SOURCES;
}
