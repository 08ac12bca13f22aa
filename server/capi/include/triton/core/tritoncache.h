/* The C interface of cache libraries, version 0.1. A library is CACHES/NAME/libtritoncache_NAME.so. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "triton/core/tritonserver.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRITONCACHE_API_VERSION_MAJOR 0
#define TRITONCACHE_API_VERSION_MINOR 1

/* The library's own: the server hands it back as it is. */
typedef struct TRITONCACHE_Cache TRITONCACHE_Cache;
/* What is kept under a key: buffers. Good during the call that it is given to. */
typedef struct TRITONCACHE_CacheEntry TRITONCACHE_CacheEntry;
/* What copies an entry. Good during the call that it is given to. */
typedef struct TRITONCACHE_Allocator TRITONCACHE_Allocator;

/* === functions of the server === */

struct TRITONSERVER_Error* TRITONCACHE_ApiVersion(uint32_t* major, uint32_t* minor);

struct TRITONSERVER_Error* TRITONCACHE_CacheEntryBufferCount(TRITONCACHE_CacheEntry* entry, size_t* count);

/* For a look-up: adds a buffer of the library. */
struct TRITONSERVER_Error* TRITONCACHE_CacheEntryAddBuffer(
    TRITONCACHE_CacheEntry* entry, void* base, struct TRITONSERVER_BufferAttributes* attributes);

/* Fills `attributes`, which the caller has made. */
struct TRITONSERVER_Error* TRITONCACHE_CacheEntryGetBuffer(
    TRITONCACHE_CacheEntry* entry, size_t index, void** base, struct TRITONSERVER_BufferAttributes* attributes);

/* For an insertion: puts a buffer of the library in place of the server's; with NULL attributes it is as large. */
struct TRITONSERVER_Error* TRITONCACHE_CacheEntrySetBuffer(
    TRITONCACHE_CacheEntry* entry, size_t index, void* base, struct TRITONSERVER_BufferAttributes* attributes);

/* Copies: of an insertion, from the server to the library's buffers; of a look-up, the other way. */
struct TRITONSERVER_Error* TRITONCACHE_Copy(TRITONCACHE_Allocator* allocator, TRITONCACHE_CacheEntry* entry);

/* === functions of the library, all required; called from many threads at once === */

/* `config`: the settings of --cache-config as JSON. */
struct TRITONSERVER_Error* TRITONCACHE_CacheInitialize(TRITONCACHE_Cache** cache, const char* config);

struct TRITONSERVER_Error* TRITONCACHE_CacheFinalize(TRITONCACHE_Cache* cache);

/* ALREADY_EXISTS is no failure. */
struct TRITONSERVER_Error* TRITONCACHE_CacheInsert(
    TRITONCACHE_Cache* cache, const char* key, TRITONCACHE_CacheEntry* entry, TRITONCACHE_Allocator* allocator);

/* NOT_FOUND says that there is no such key. */
struct TRITONSERVER_Error* TRITONCACHE_CacheLookup(
    TRITONCACHE_Cache* cache, const char* key, TRITONCACHE_CacheEntry* entry, TRITONCACHE_Allocator* allocator);

#ifdef __cplusplus
}
#endif
