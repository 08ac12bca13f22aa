/* A cache of a few entries that never leave, and a gauge of how many there are. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "triton/core/tritoncache.h"

#define TRY(call)                            \
    do {                                     \
        TRITONSERVER_Error* failed = (call); \
        if (failed != NULL) return failed;   \
    } while (0)

#define MOST_ENTRIES 64

typedef struct {
    char* key;
    void* bytes;
    size_t size;
} Entry;

static Entry entries[MOST_ENTRIES];
static size_t count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static TRITONSERVER_MetricFamily* family;
static TRITONSERVER_Metric* gauge;

static TRITONSERVER_Error* error_of(TRITONSERVER_Error_Code code, const char* text) {
    return TRITONSERVER_ErrorNew(code, text);
}

TRITONSERVER_Error* TRITONCACHE_CacheInitialize(TRITONCACHE_Cache** cache, const char* config) {
    uint32_t major, minor;
    TRY(TRITONCACHE_ApiVersion(&major, &minor));
    if (major != TRITONCACHE_API_VERSION_MAJOR || minor < TRITONCACHE_API_VERSION_MINOR) {
        return error_of(TRITONSERVER_ERROR_UNSUPPORTED, "another version of the interface");
    }
    if (strstr(config, "\"refuse\"") != NULL) return error_of(TRITONSERVER_ERROR_INVALID_ARG, "the cache was told to refuse");
    TRY(TRITONSERVER_MetricFamilyNew(&family, TRITONSERVER_METRIC_KIND_GAUGE, "entries_of_c", "entries of the cache in C"));
    TRY(TRITONSERVER_MetricNew(&gauge, family, NULL, 0));
    *cache = (TRITONCACHE_Cache*)entries;
    return NULL;
}

TRITONSERVER_Error* TRITONCACHE_CacheFinalize(TRITONCACHE_Cache* cache) {
    (void)cache;
    TRY(TRITONSERVER_MetricDelete(gauge));
    return TRITONSERVER_MetricFamilyDelete(family);
}

static Entry* find(const char* key) {
    for (size_t index = 0; index < count; ++index) {
        if (strcmp(entries[index].key, key) == 0) return &entries[index];
    }
    return NULL;
}

static TRITONSERVER_Error* keep(const char* key, TRITONCACHE_CacheEntry* entry, TRITONCACHE_Allocator* allocator) {
    size_t buffers;
    TRY(TRITONCACHE_CacheEntryBufferCount(entry, &buffers));
    if (buffers != 1) return error_of(TRITONSERVER_ERROR_INTERNAL, "an entry of several buffers");
    if (find(key) != NULL) return error_of(TRITONSERVER_ERROR_ALREADY_EXISTS, "the key is there");
    if (count == MOST_ENTRIES) return error_of(TRITONSERVER_ERROR_INTERNAL, "the cache is full");
    TRITONSERVER_BufferAttributes* attributes;
    TRY(TRITONSERVER_BufferAttributesNew(&attributes));
    void* base;
    TRY(TRITONCACHE_CacheEntryGetBuffer(entry, 0, &base, attributes));
    Entry kept = {strdup(key), NULL, 0};
    TRY(TRITONSERVER_BufferAttributesByteSize(attributes, &kept.size));
    TRY(TRITONSERVER_BufferAttributesDelete(attributes));
    kept.bytes = malloc(kept.size);
    TRY(TRITONCACHE_CacheEntrySetBuffer(entry, 0, kept.bytes, NULL));
    TRY(TRITONCACHE_Copy(allocator, entry));
    entries[count++] = kept;
    return TRITONSERVER_MetricSet(gauge, (double)count);
}

static TRITONSERVER_Error* give(const char* key, TRITONCACHE_CacheEntry* entry, TRITONCACHE_Allocator* allocator) {
    Entry* found = find(key);
    if (found == NULL) return error_of(TRITONSERVER_ERROR_NOT_FOUND, "the key is not there");
    TRITONSERVER_BufferAttributes* attributes;
    TRY(TRITONSERVER_BufferAttributesNew(&attributes));
    TRY(TRITONSERVER_BufferAttributesSetByteSize(attributes, found->size));
    TRY(TRITONCACHE_CacheEntryAddBuffer(entry, found->bytes, attributes));
    TRY(TRITONSERVER_BufferAttributesDelete(attributes));
    return TRITONCACHE_Copy(allocator, entry);
}

TRITONSERVER_Error* TRITONCACHE_CacheInsert(
    TRITONCACHE_Cache* cache, const char* key, TRITONCACHE_CacheEntry* entry, TRITONCACHE_Allocator* allocator) {
    (void)cache;
    pthread_mutex_lock(&lock);
    TRITONSERVER_Error* error = keep(key, entry, allocator);
    pthread_mutex_unlock(&lock);
    return error;
}

TRITONSERVER_Error* TRITONCACHE_CacheLookup(
    TRITONCACHE_Cache* cache, const char* key, TRITONCACHE_CacheEntry* entry, TRITONCACHE_Allocator* allocator) {
    (void)cache;
    pthread_mutex_lock(&lock);
    TRITONSERVER_Error* error = give(key, entry, allocator);
    pthread_mutex_unlock(&lock);
    return error;
}
