/* An iterative model: each turn sends INPUT0 less the turns before, and asks for another turn until that is 1. */
#include "common.h"

static int32_t left;

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    (void)instance;
    for (uint32_t index = 0; index < count; ++index) {
        TRITONBACKEND_Request* request = requests[index];
        TRITONBACKEND_Input* input;
        const void* from;
        uint64_t size;
        TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
        int64_t device = 0;
        TRY(TRITONBACKEND_RequestInput(request, "INPUT0", &input));
        TRY(TRITONBACKEND_InputBuffer(input, 0, &from, &size, &memory, &device));
        if (left == 0) memcpy(&left, from, sizeof left);
        TRITONBACKEND_Response* response;
        TRITONBACKEND_Output* output;
        void* to;
        TRY(TRITONBACKEND_ResponseNew(&response, request));
        TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, (int64_t[]){1}, 1));
        TRY(TRITONBACKEND_OutputBuffer(output, &to, sizeof left, &memory, &device));
        memcpy(to, &left, sizeof left);
        left -= 1;
        uint32_t flags = left > 0 ? 0 : TRITONSERVER_RESPONSE_COMPLETE_FINAL;
        fails(TRITONBACKEND_ResponseSend(response, flags, NULL));
        fails(TRITONBACKEND_RequestRelease(
            request, left > 0 ? TRITONSERVER_REQUEST_RELEASE_RESCHEDULE : TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return NULL;
}
