/* What the test libraries share: they are written against the headers in `include`, and compiled by the tests. */
#pragma once

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "triton/core/tritonbackend.h"

#define TRY(call)                            \
    do {                                     \
        TRITONSERVER_Error* failed = (call); \
        if (failed != NULL) return failed;   \
    } while (0)

/* Deletes the error of a call that may fail; whether it failed. */
static inline bool fails(TRITONSERVER_Error* error) {
    if (error == NULL) return false;
    TRITONSERVER_ErrorDelete(error);
    return true;
}

static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Sends one number as OUTPUT0, one response of several. */
static inline TRITONSERVER_Error* send_value(TRITONBACKEND_ResponseFactory* factory, int32_t value) {
    TRITONBACKEND_Response* response;
    TRY(TRITONBACKEND_ResponseNewFromFactory(&response, factory));
    TRITONBACKEND_Output* output;
    const int64_t shape[] = {1};
    TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, shape, 1));
    void* to;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    int64_t device = 0;
    TRY(TRITONBACKEND_OutputBuffer(output, &to, sizeof value, &memory, &device));
    memcpy(to, &value, sizeof value);
    return TRITONBACKEND_ResponseSend(response, 0, NULL);
}

/* The first number of INPUT0, or 0. */
static inline int32_t first_number(TRITONBACKEND_Request* request) {
    TRITONBACKEND_Input* input;
    const void* from;
    uint64_t size;
    TRITONSERVER_MemoryType memory;
    int64_t device;
    int32_t number = 0;
    if (fails(TRITONBACKEND_RequestInput(request, "INPUT0", &input))) return 0;
    if (fails(TRITONBACKEND_InputBuffer(input, 0, &from, &size, &memory, &device))) return 0;
    if (size >= sizeof number) memcpy(&number, from, sizeof number);
    return number;
}

/* Adds an output that repeats an input, under another name. */
static inline TRITONSERVER_Error* repeat(
    TRITONBACKEND_Request* request, const char* input_name, TRITONBACKEND_Response* response, const char* output_name) {
    TRITONBACKEND_Input* input;
    TRY(TRITONBACKEND_RequestInput(request, input_name, &input));
    TRITONSERVER_DataType type;
    const int64_t* shape;
    uint32_t rank, buffers;
    uint64_t size;
    TRY(TRITONBACKEND_InputProperties(input, NULL, &type, &shape, &rank, &size, &buffers));
    TRITONBACKEND_Output* output;
    TRY(TRITONBACKEND_ResponseOutput(response, &output, output_name, type, shape, rank));
    void* to;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    int64_t device = 0;
    TRY(TRITONBACKEND_OutputBuffer(output, &to, size, &memory, &device));
    char* at = to;
    for (uint32_t index = 0; index < buffers; ++index) {
        const void* from;
        uint64_t length;
        TRY(TRITONBACKEND_InputBuffer(input, index, &from, &length, &memory, &device));
        memcpy(at, from, length);
        at += length;
    }
    return NULL;
}
