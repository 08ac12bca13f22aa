/* Ten threads use one request, one factory and each other's responses at a time, and all of them release, end and delete what there is
 * one of. Whatever they do, each of those must succeed once; else the process ends. */
#include <stdatomic.h>

#include "common.h"

enum { THREADS = 10, ROUNDS = 20 };

typedef struct {
    TRITONBACKEND_Request* request;
    TRITONBACKEND_ResponseFactory* factory;
    TRITONBACKEND_Response* shared;
    pthread_barrier_t barrier;
    atomic_int released, ended, deleted, sent;
} Storm;

static void* run(void* argument) {
    Storm* storm = argument;
    pthread_barrier_wait(&storm->barrier);
    for (int round = 0; round < ROUNDS; ++round) {
        TRITONBACKEND_Response* response;
        TRITONBACKEND_Output* output;
        TRITONBACKEND_Input* input;
        const char* id;
        bool is_cancelled;
        void* to;
        TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
        int64_t device = 0;
        const int64_t shape[] = {1};
        fails(send_value(storm->factory, round));
        fails(TRITONBACKEND_RequestId(storm->request, &id));
        fails(TRITONBACKEND_RequestIsCancelled(storm->request, &is_cancelled));
        fails(TRITONBACKEND_RequestInput(storm->request, "INPUT0", &input));
        if (!fails(TRITONBACKEND_ResponseNew(&response, storm->request))) fails(TRITONBACKEND_ResponseDelete(response));
        fails(TRITONBACKEND_ResponseOutput(storm->shared, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, shape, 1));
        fails(TRITONBACKEND_OutputBuffer(output, &to, 4, &memory, &device));
    }
    pthread_barrier_wait(&storm->barrier);
    storm->sent += !fails(TRITONBACKEND_ResponseSend(storm->shared, 0, NULL));
    storm->released += !fails(TRITONBACKEND_RequestRelease(storm->request, TRITONSERVER_REQUEST_RELEASE_ALL));
    storm->ended += !fails(TRITONBACKEND_ResponseFactorySendFlags(storm->factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL));
    pthread_barrier_wait(&storm->barrier);
    storm->deleted += !fails(TRITONBACKEND_ResponseFactoryDelete(storm->factory));
    return NULL;
}

static TRITONSERVER_Error* weather(TRITONBACKEND_Request* request) {
    Storm storm = {.request = request};
    TRY(TRITONBACKEND_ResponseFactoryNew(&storm.factory, request));
    TRY(TRITONBACKEND_ResponseNewFromFactory(&storm.shared, storm.factory));
    pthread_barrier_init(&storm.barrier, NULL, THREADS);
    pthread_t threads[THREADS];
    for (int index = 0; index < THREADS; ++index) pthread_create(&threads[index], NULL, run, &storm);
    for (int index = 0; index < THREADS; ++index) pthread_join(threads[index], NULL);
    pthread_barrier_destroy(&storm.barrier);
    /* the shared response may come after the final flag, and is gone all the same */
    if (storm.released != 1 || storm.ended != 1 || storm.deleted != 1 || storm.sent > 1) abort();
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    (void)instance;
    for (uint32_t index = 0; index < count; ++index) TRY(weather(requests[index]));
    return NULL;
}
